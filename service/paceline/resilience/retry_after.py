"""The wait an answer names: `retry-after-ms`, else Retry-After in every form of RFC 9110 section 10.2.3."""

from __future__ import annotations

import time

from paceline.http_values import number, wait_s
from paceline.model import Response

_MS_NAMES = frozenset({"retry-after-ms", "x-ms-retry-after-ms"})


def retry_after_s(response: Response) -> float | None:
    """Seconds to wait, or None where the answer names none that can be used."""
    named: float | None = None
    date: str | None = None
    text: str | None = None
    for name, value in response.headers:
        if name in _MS_NAMES:
            ms = number(value)
            named = named if ms is None else ms / 1000
        elif name == "retry-after":
            text = value
        elif name == "date":
            date = value
    if named is not None or text is None:
        return named
    return wait_s(text, date, time.time())
