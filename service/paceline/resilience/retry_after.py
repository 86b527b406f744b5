"""The wait an answer names: `retry-after-ms`, else Retry-After in every form of RFC 9110 section 10.2.3."""

from __future__ import annotations

import time

from paceline.header_values import number, parse_retry_after_s
from paceline.model import Response

_RETRY_AFTER_MS_FIELDS = frozenset({"retry-after-ms", "x-ms-retry-after-ms"})


def parse_retry_after(response: Response) -> float | None:
    """Seconds to wait, or None where the answer names none that can be used."""
    ms_wait_s: float | None = None
    date: str | None = None
    text: str | None = None
    for name, value in response.headers:
        if name in _RETRY_AFTER_MS_FIELDS:
            ms = number(value)
            ms_wait_s = ms_wait_s if ms is None else ms / 1000
        elif name == "retry-after":
            text = value
        elif name == "date":
            date = value
    if ms_wait_s is not None or text is None:
        return ms_wait_s
    return parse_retry_after_s(text, date, time.time())
