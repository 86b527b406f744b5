"""Retry-After and its forms in milliseconds: the one place that reads them, once for each failed attempt."""

from __future__ import annotations

from collections.abc import Iterable

from paceline.header_values import number, parse_http_date

_MS_FIELDS = frozenset({"retry-after-ms", "x-ms-retry-after-ms"})
RETRY_AFTER_FIELDS = _MS_FIELDS | {"retry-after"}

_MAX_WAIT_S = 1e10
"""Seconds: three centuries. A larger number is a slip and no wait."""


def parse_retry_after(headers: Iterable[tuple[str, str]], now_epoch_s: float) -> float | None:
    """Seconds to wait, or None where no field names a usable wait.

    Milliseconds take precedence over Retry-After. Of a repeated field the longest usable value counts: each sender of
    one asked for at least its own wait. A date is compared with the response's own Date, so that a wrong clock on
    either side does no harm.

    Args:
        headers: A response's fields, names in lower case.
        now_epoch_s: The time to compare a date with where the response has no usable Date.
    """
    ms_waits_s: list[float] = []
    texts: list[str] = []
    date: str | None = None
    for name, value in headers:
        if name in _MS_FIELDS:
            ms = number(value)
            if ms is not None:
                ms_waits_s.append(ms / 1000)
        elif name == "retry-after":
            texts.append(value)
        elif name == "date":
            date = value
    if ms_waits_s:
        return max(ms_waits_s)
    waits_s = (_parse_value(text, date, now_epoch_s) for text in texts)
    return max((wait_s for wait_s in waits_s if wait_s is not None), default=None)


def _parse_value(text: str, date: str | None, now_epoch_s: float) -> float | None:
    """One value in any form of RFC 9110 section 10.2.3, or with decimals."""
    seconds = number(text)
    if seconds is not None:
        return seconds if seconds < _MAX_WAIT_S else None
    moment = parse_http_date(text, now_epoch_s)
    if moment is None:
        return None
    sent_at = parse_http_date(date, now_epoch_s) if date is not None else None
    return max(0.0, moment - (now_epoch_s if sent_at is None else sent_at))
