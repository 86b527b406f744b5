"""When a window resets, in every form that upstreams write it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

from paceline.header_values import DAY_NAME, MONTH, TIME, number, parse_http_date, to_epoch_s

_MIN_EPOCH_S = 1e9
_MIN_EPOCH_MS = 1e12
_MAX_TEXT_LENGTH = 100

_UNIT_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "ns": 1e-9}
_DURATION_PART = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(d|h|ms|us|\u00b5s|ns|m|s)"
_DURATION = re.compile(rf"(?:{_DURATION_PART}){{1,8}}")
_DURATION_PARTS = re.compile(_DURATION_PART)

_OFFSET = r"(?P<sign>[+-])(?P<off_hours>[0-9]{2}):?(?P<off_minutes>[0-9]{2})"
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(\.[0-9]{1,9})?)?"
    rf" ?(?:[Zz]|UTC|GMT|{_OFFSET})?"
)
_JAVASCRIPT_DATE = re.compile(
    rf"{DAY_NAME} {MONTH} (?P<day>[0-9]{{2}}) (?P<year>[0-9]{{4}}) {TIME} GMT{_OFFSET}(?: \([^()]{{1,50}}\))?",
    re.IGNORECASE | re.ASCII,
)

ResetTime = tuple[float, bool]
"""Seconds from the response to the reset, and whether it was written in whole seconds."""


def parse_reset(text: str, sent_at: Callable[[], float], unit_s: float = 1.0) -> ResetTime | None:
    """Parse a reset; None where it is negative or unclear.

    A number is epoch milliseconds from 1e12, epoch seconds from 1e9, below that a wait in `unit_s`. A text is a
    duration (`6m0s`), an ISO 8601 moment, an HTTP-date, or a date as JavaScript prints it. A moment is compared with
    `sent_at()`, the response's own clock; one that has passed is 0.
    """
    value = number(text)
    if value is not None:
        if value >= _MIN_EPOCH_MS:
            return max(0.0, value / 1000 - sent_at()), False
        if value >= _MIN_EPOCH_S:
            return max(0.0, value - sent_at()), value.is_integer()
        return value * unit_s, unit_s == 1.0 and value.is_integer()
    text = text.strip(" \t")
    if len(text) > _MAX_TEXT_LENGTH:
        return None
    duration = parse_go_duration(text)
    if duration is not None:
        return duration, False
    moment = _parse_iso8601(text)
    if moment is None:
        moment = _parse_javascript_date(text)
    if moment is None:
        moment = parse_http_date(text, sent_at())
    return None if moment is None else (max(0.0, moment - sent_at()), moment.is_integer())


def parse_wait(text: str, sent_at: Callable[[], float], unit_s: float = 1.0) -> ResetTime | None:
    """Parse a reset that is a number of seconds to wait, however large."""
    value = number(text)
    return None if value is None else (value, value.is_integer())


def parse_go_duration(text: str) -> float | None:
    """Seconds of a duration as Go prints it: `12ms`, `7.66s`, `6m0s`, `1h30m`."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(amount) * _UNIT_S[unit] for amount, unit in _DURATION_PARTS.findall(text))


def _parse_iso8601(text: str) -> float | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute = (int(part) for part in match.group(1, 2, 3, 4, 5))
    try:
        moment = datetime(year, month, day, hour, minute, int(match[6] or 0), tzinfo=UTC).timestamp()
    except ValueError:
        return None
    return moment + float(match[7] or 0.0) - _offset_s(match)


def _parse_javascript_date(text: str) -> float | None:
    match = _JAVASCRIPT_DATE.fullmatch(text)
    if match is None:
        return None
    moment = to_epoch_s(int(match["year"]), match)
    return None if moment is None else moment - _offset_s(match)


def _offset_s(match: re.Match[str]) -> float:
    if match["sign"] is None:
        return 0.0
    seconds = int(match["off_hours"]) * 3600.0 + int(match["off_minutes"]) * 60.0
    return -seconds if match["sign"] == "-" else seconds
