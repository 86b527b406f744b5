"""Durations and sizes: parse what people write to seconds and bytes, and format them.

Every error is a `ValueError` that reads `problem; fix`.
"""

from __future__ import annotations

import re

MAX_DURATION_S = 366 * 24 * 3600.0
"""Seconds: a leap year. A longer duration is a slip, and timers stop being exact."""

MAX_SIZE_BYTES = 1 << 40

_SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES_PER_UNIT = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}

DURATION_PATTERN = r"[0-9]{1,12}(\.[0-9]{1,9})?(ms|s|m|h|d)"
SIZE_PATTERN = r"[0-9]{1,15}(\.[0-9]{1,9})?(B|KB|MB|GB|KiB|MiB|GiB)"

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(B|KB|MB|GB|KiB|MiB|GiB)")
_UNITLESS_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")


def parse_duration(value: object) -> float:
    """Seconds of `"250ms"`, `"30s"`, `"2m"`, `"1h"`, `"1d"` or a number of seconds; zero is a duration.

    Raises:
        ValueError: anything else, a negative, NaN, an infinity, or more than a year.
    """
    # Numbers first, as the API reads one for every item; by exact type, as a bool is an int to isinstance.
    if type(value) is float or type(value) is int:
        if 0 <= value <= MAX_DURATION_S:
            return float(value)
    elif type(value) is str:
        match = _DURATION.fullmatch(value)
        if match is not None:
            # As the nearest float of the written number: 0.1 s and 100 ms must be equal.
            unit = match[2]
            seconds = float(match[1]) / 1000 if unit == "ms" else float(match[1]) * _SECONDS_PER_UNIT[unit]
            if seconds <= MAX_DURATION_S:
                return seconds
    raise ValueError(_explain_invalid_duration(value))


def _explain_invalid_duration(value: object) -> str:
    # The value itself is not repeated: it may have come out of a secret.
    if isinstance(value, str):
        if _UNITLESS_NUMBER.fullmatch(value):
            return 'has no unit; add one, as in "30s", or write a number without quotes'
        if not _DURATION.fullmatch(value):
            return 'is not a duration; write it as "250ms", "30s", "2m", "1h" or a number of seconds'
    elif isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return 'is not a duration; write it as "250ms", "30s", "2m", "1h" or a number of seconds'
    elif value < 0:
        return "is negative; write zero or more seconds"
    return "is longer than 366 days; write a shorter duration"


def parse_size(value: object) -> int:
    """Bytes of `"8MiB"`, `"64KiB"`, `"10MB"` or a whole number of bytes; zero is a size.

    Raises:
        ValueError: anything else, a negative, a fraction of a byte, or more than 1 TiB.
    """
    if type(value) is int:
        if 0 <= value <= MAX_SIZE_BYTES:
            return value
        raise ValueError("is out of range; write a size between 0 and 1024GiB")
    if type(value) is not str:
        raise ValueError('is not a size; write it as "8MiB", "64KiB", "10MB" or a whole number of bytes')
    match = _SIZE.fullmatch(value)
    if match is None:
        if _UNITLESS_NUMBER.fullmatch(value):
            raise ValueError('has no unit; add one, as in "8MiB", or write a number without quotes')
        raise ValueError('is not a size; write it as "8MiB", "64KiB", "10MB" or a whole number of bytes')
    size = float(match[1]) * _BYTES_PER_UNIT[match[2]]
    if not size.is_integer():
        raise ValueError("is not a whole number of bytes; write one that is")
    if size > MAX_SIZE_BYTES:
        raise ValueError("is out of range; write a size between 0 and 1024GiB")
    return int(size)


def format_duration(seconds: float) -> str:
    """A duration in its largest unit, as `parse_duration` reads it: `60.0` is `1m`, `0.25` is `250ms`."""
    if seconds == 0:
        return "0s"
    if seconds < 1:
        return f"{_format_number(round(seconds * 1000, 9))}ms"
    for unit in ("d", "h", "m"):
        if seconds % _SECONDS_PER_UNIT[unit] == 0:
            return f"{_format_number(seconds / _SECONDS_PER_UNIT[unit])}{unit}"
    return f"{_format_number(seconds)}s"


def format_rounded_duration(seconds: float, *, decimals: int | None = None, clock: bool = False) -> str:
    """A measured duration: three digits and a unit, as in `4.21ms`, `42.1ms`, `8.03s`.

    Args:
        decimals: Seconds with this many decimals instead, however short it is.
        clock: From a minute on in minutes or hours, as in `3m10s` and `2h05m`.
    """
    if clock and round(seconds, 1 if decimals is None else decimals) >= 60:
        whole_s = round(seconds)
        if whole_s < 3600:
            return f"{whole_s // 60}m{whole_s % 60:02d}s"
        return f"{whole_s // 3600}h{whole_s % 3600 // 60:02d}m"
    if decimals is not None:
        return f"{seconds:.{decimals}f}s"
    if seconds >= 0.9995:
        return f"{seconds:.{0 if seconds >= 100 else 1 if seconds >= 10 else 2}f}s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.0f}ms" if milliseconds >= 100 else f"{milliseconds:.3g}ms"


def format_seconds(seconds: float, digits: int = 6) -> str:
    """Seconds within a sentence, to this many significant digits: `0.25 s`, `10 s`."""
    return f"{seconds:.{digits}g} s"


def format_size(size_bytes: int) -> str:
    """A size as `parse_size` reads it back, in the largest unit that fits: `8388608` is `8MiB`."""
    for unit in ("GiB", "MiB", "KiB", "GB", "MB", "KB"):
        if size_bytes and size_bytes % _BYTES_PER_UNIT[unit] == 0:
            return f"{size_bytes // _BYTES_PER_UNIT[unit]}{unit}"
    return f"{size_bytes}B"


def _format_number(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")
