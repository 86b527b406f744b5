"""Names and values of HTTP fields that more than one layer reads: strict, and never raising.

A number here is what the grammars of HTTP call one. `int` and `float` take more (`1_000`, other scripts' digits, `inf`,
`1e309`); a value that no grammar allows is ignored, never guessed at.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

match_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
"""A token of RFC 9110 section 5.6.2: the form of methods and field names."""
find_control_character = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search
"""What no field value may hold: any control character but the tab."""

HOP_BY_HOP_RESPONSE_HEADERS = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
)
"""Fields of a response that end at the connection they came over (RFC 9110 section 7.6.1)."""
ENGINE_HEADERS = HOP_BY_HOP_RESPONSE_HEADERS | {
    *("te", "trailer"),  # the same, in a request
    *("host", "content-length", "expect", "accept-encoding"),  # set by the engine, which frames and negotiates
}
"""Fields of a request that the engine sets or that end at one hop; every `proxy-` field is one too."""
ENGINE_HEADER_PREFIX = "proxy-"

_DECIMAL = re.compile(r"[0-9]{1,15}\.[0-9]{1,9}")

MONTH_NUMBERS = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}
MONTH = "(?P<month>" + "|".join(MONTH_NUMBERS) + ")"
DAY_NAME = "(?:mon|tue|wed|thu|fri|sat|sun)"
TIME = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"

_HTTP_DATE_PATTERNS = tuple(
    re.compile(form, re.IGNORECASE | re.ASCII)
    for form in (
        rf"{DAY_NAME}, (?P<day>[0-9]{{1,2}}) {MONTH} (?P<year>[0-9]{{4}}) {TIME} GMT",  # IMF-fixdate
        rf"(?:mon|tues|wednes|thurs|fri|satur|sun)day, (?P<day>[0-9]{{2}})-{MONTH}-(?P<year>[0-9]{{2}}) {TIME} GMT",
        rf"{DAY_NAME} {MONTH} {{1,2}}(?P<day>[0-9]{{1,2}}) {TIME} (?P<year>[0-9]{{4}})",  # asctime
    )
)


def number(text: str) -> float | None:
    """A number of at most 15 digits and 9 decimals, zero or more; else None."""
    text = text.strip(" \t")
    if not text.isascii():
        return None
    if text.isdigit():
        return float(text) if len(text) <= 15 else None
    return float(text) if _DECIMAL.fullmatch(text) else None


def parse_http_date(text: str, now_epoch_s: float) -> float | None:
    """An HTTP-date in any of RFC 9110's three forms as epoch seconds, or None.

    A year of two digits that would lie over 50 years ahead of now is of the century before.
    """
    text = text.strip(" \t")
    for pattern in _HTTP_DATE_PATTERNS:
        match = pattern.fullmatch(text)
        if match is None:
            continue
        year = int(match["year"])
        if len(match["year"]) == 2:
            this_year = datetime.fromtimestamp(now_epoch_s, UTC).year
            year += this_year // 100 * 100
            if year > this_year + 50:
                year -= 100
        return to_epoch_s(year, match)
    return None


def to_epoch_s(year: int, match: re.Match[str]) -> float | None:
    """Epoch seconds of the groups day, month (a name), hour, minute and second as UTC; None for no real day."""
    try:
        moment = datetime(
            year,
            MONTH_NUMBERS[match["month"].lower()],
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            int(match["second"]),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return moment.timestamp()
