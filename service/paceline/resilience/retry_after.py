"""The wait an answer names: `retry-after-ms`, else Retry-After in every form of RFC 9110 section 10.2.3.

Integers, decimals (Microsoft Graph sends them) and the three HTTP-date forms, reckoned from the answer's own Date so
that a wrong clock on either side does no harm. What is unusable is ignored, never guessed at.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from paceline.model import Response

_NUMBER = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,9})?")
_DATE_FORMS = (
    "%a, %d %b %Y %H:%M:%S GMT",  # IMF-fixdate
    "%A, %d-%b-%y %H:%M:%S GMT",  # RFC 850
    "%a %b %d %H:%M:%S %Y",  # asctime
)
_MS_NAMES = frozenset({"retry-after-ms", "x-ms-retry-after-ms"})


def retry_after_s(response: Response) -> float | None:
    """Seconds to wait, or None where the answer names none that can be used."""
    named: float | None = None
    date: str | None = None
    text: str | None = None
    for name, value in response.headers:
        if name in _MS_NAMES:
            ms = _number(value)
            named = named if ms is None else ms / 1000
        elif name == "retry-after":
            text = value
        elif name == "date":
            date = value
    if named is not None or text is None:
        return named
    seconds = _number(text)
    if seconds is not None:
        return seconds
    moment = http_date(text)
    if moment is None:
        return None
    sent_at = http_date(date) if date else None
    return max(0.0, moment - (time.time() if sent_at is None else sent_at))


def http_date(text: str) -> float | None:
    """An HTTP-date as epoch seconds, or None."""
    text = " ".join(text.split())
    for form in _DATE_FORMS:
        try:
            moment = datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
        if form == _DATE_FORMS[1] and moment.year > datetime.now(UTC).year + 50:
            moment = moment.replace(year=moment.year - 100)
        return moment.timestamp()
    return None


def _number(text: str) -> float | None:
    text = text.strip(" \t")
    return float(text) if _NUMBER.fullmatch(text) else None
