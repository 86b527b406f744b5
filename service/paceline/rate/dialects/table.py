"""What a dialect is: a table of the header names it reads, and one reader for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from msgspec import Struct

from paceline.http_values import http_date, number, wait_s
from paceline.rate.dialects.resets import Reset, reset_of
from paceline.rate.rate_info import RateWindowInfo

_LABEL_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:/+=-")
_LONGEST_LABEL = 64


class Answer:
    """One response as its dialect sees it: the fields it reads, and the upstream's clock.

    `clamped` turns true when a wait was longer than `max_reset_s` and was cut.
    """

    __slots__ = ("_date", "_now_epoch_s", "_sent_at", "clamped", "fields", "max_reset_s")

    def __init__(self, fields: dict[str, str], date: str | None, now_epoch_s: float, max_reset_s: float) -> None:
        self.fields = fields
        self.max_reset_s = max_reset_s
        self.clamped = False
        self._date = date
        self._now_epoch_s = now_epoch_s
        self._sent_at: float | None = None

    def sent_at(self) -> float:
        """Epoch seconds by the answer's own Date, or by our clock where it has none that can be read."""
        if self._sent_at is None:
            told = None if self._date is None else http_date(self._date, self._now_epoch_s)
            self._sent_at = self._now_epoch_s if told is None else told
        return self._sent_at

    def retry_after_s(self) -> float | None:
        """The seconds that Retry-After names, or None."""
        text = self.fields.get("retry-after")
        return None if text is None else wait_s(text, self._date, self._now_epoch_s)

    def bounded(self, seconds: float) -> float:
        """Never longer than allowed."""
        if seconds > self.max_reset_s:
            self.clamped = True
            return self.max_reset_s
        return seconds

    def count(self, name: str) -> float | None:
        """The number in this field, or None."""
        text = self.fields.get(name)
        return None if text is None else number(text)

    def yes(self, name: str) -> bool:
        """This field says true."""
        return self.fields.get(name, "").strip(" \t").lower() == "true"

    def label(self, name: str) -> str | None:
        """The word in this field, or None where it is not one plain short word."""
        text = self.fields.get(name, "").strip(" \t")
        return text if 0 < len(text) <= _LONGEST_LABEL and _LABEL_CHARACTERS.issuperset(text) else None


class WindowNames(Struct, frozen=True):
    """How one window is spelled: header names where the upstream says it, values where it is known of it."""

    name: str = "default"
    limit: str = ""
    remaining: str = ""
    used: str = ""
    reset: tuple[str, ...] = ()
    """The first that can be read counts."""
    read_reset: Callable[[str, Callable[[], float], float], Reset | None] = reset_of
    reset_unit_s: float = 1.0
    per_ms: str = ""
    per_s: float | None = None
    unit: str = "requests"
    refills: bool = False
    usual_per_s: tuple[float, ...] = ()
    """Lengths this window may have, where the refill's own speed tells which."""

    def names(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.limit, self.remaining, self.used, *self.reset, self.per_ms)))


class Known(Struct, frozen=True):
    """What is known of a window by the name an upstream gives it."""

    per_s: float
    unit: str = "requests"


class Dialect(Struct, frozen=True):
    """One upstream's way to say its limits; every string is a header name unless said otherwise."""

    name: str
    """The word for it in a configuration."""
    windows: tuple[WindowNames, ...] = ()
    signs: tuple[str, ...] = ()
    """Names that tell it apart when none is configured."""
    lists: Callable[[Answer], tuple[RateWindowInfo, ...]] | None = None
    """A reader of its own, where a field holds more than one value."""
    list_names: tuple[str, ...] = ()
    """What that reader reads."""
    named_by: str = ""
    known: Mapping[str, Known] = MappingProxyType({})
    scope: str = ""
    global_scope: str = ""
    bucket: str = ""
    reason: str = ""
    near_limit: str = ""
    wait: str = ""
    """A wait in seconds of the vendor's own, for a refusal."""
    unnamed_wait_s: float | None = None
    """What its documentation asks to wait after a 429 that names nothing."""
    ietf: bool = False
    """Its reset is a time to wait, and outranks a vendor's own field."""

    def names(self) -> frozenset[str]:
        """Every header name it reads besides Retry-After and the milliseconds."""
        plain = (self.named_by, self.scope, self.global_scope, self.bucket, self.reason, self.near_limit, self.wait)
        spelled = (name for window in self.windows for name in window.names())
        return frozenset((*self.list_names, *spelled, *filter(None, plain)))


def windows_of(dialect: Dialect, answer: Answer) -> tuple[RateWindowInfo, ...]:
    """The windows that this dialect finds in an answer; what is malformed is as if it were not there."""
    if dialect.lists is not None:
        return dialect.lists(answer)
    found: list[RateWindowInfo] = []
    for spelled in dialect.windows:
        window = _read(spelled, dialect, answer)
        if window is not None and all(window.name != other.name for other in found):
            found.append(window)
    return tuple(found)


def _read(spelled: WindowNames, dialect: Dialect, answer: Answer) -> RateWindowInfo | None:
    # A limit of none at all is said where there is no limit or none is known; as a limit it could never be paid.
    limit = answer.count(spelled.limit) or None
    remaining = answer.count(spelled.remaining)
    used = answer.count(spelled.used)
    if used is not None:
        if remaining is None and limit is not None:
            remaining = max(0.0, limit - used)
        elif limit is None and remaining is not None:
            limit = used + remaining or None
    told = _reset(spelled, answer)
    if limit is None and remaining is None and told is None:
        return None
    reset_s, whole = (None, False) if told is None else told
    label = answer.label(dialect.named_by) if dialect.named_by else None
    known = dialect.known.get(label or spelled.name)
    return RateWindowInfo(
        name=label or spelled.name,
        unit=spelled.unit if known is None else known.unit,
        limit=limit,
        remaining=remaining,
        reset_after_s=None if reset_s is None else answer.bounded(reset_s),
        per_s=_per_s(spelled, answer, limit, remaining, reset_s) if known is None else known.per_s,
        whole_seconds=whole,
        refills=spelled.refills,
    )


def _reset(spelled: WindowNames, answer: Answer) -> Reset | None:
    for name in spelled.reset:
        text = answer.fields.get(name)
        told = None if text is None else spelled.read_reset(text, answer.sent_at, spelled.reset_unit_s)
        if told is not None:
            return told
    return None


def _per_s(
    spelled: WindowNames, answer: Answer, limit: float | None, remaining: float | None, reset_s: float | None
) -> float | None:
    if spelled.per_ms:
        ms = answer.count(spelled.per_ms)
        return ms / 1000 if ms else None
    if spelled.usual_per_s and limit and remaining is not None and reset_s and remaining < limit:
        # What was used is back at the reset; so the whole limit takes as much longer as it is larger.
        seconds = reset_s * limit / (limit - remaining)
        return next((usual for usual in spelled.usual_per_s if 0.75 < seconds / usual < 1.33), None)
    return spelled.per_s
