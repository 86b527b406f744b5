"""A dialect is a table of header names; one parser reads all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from msgspec import Struct

from paceline.header_values import number, parse_http_date
from paceline.rate.dialects.reset_values import ResetTime, parse_reset
from paceline.rate.rate_info import RateWindowInfo

_LABEL_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:/+=-")
_MAX_LABEL_LENGTH = 64


class RateHeaders:
    """One response as its dialect sees it: the fields it reads, and the upstream's clock.

    `clamped` becomes true when a wait is longer than `max_reset_s` and is cut.
    """

    __slots__ = ("_date", "_now_epoch_s", "_sent_at_epoch_s", "clamped", "fields", "max_reset_s")

    def __init__(self, fields: dict[str, str], date: str | None, now_epoch_s: float, max_reset_s: float) -> None:
        self.fields = fields
        self.max_reset_s = max_reset_s
        self.clamped = False
        self._date = date
        self._now_epoch_s = now_epoch_s
        self._sent_at_epoch_s: float | None = None

    def sent_at_epoch_s(self) -> float:
        """Epoch seconds of the response's own Date, or of our clock where it has no usable one."""
        if self._sent_at_epoch_s is None:
            date_epoch_s = None if self._date is None else parse_http_date(self._date, self._now_epoch_s)
            self._sent_at_epoch_s = self._now_epoch_s if date_epoch_s is None else date_epoch_s
        return self._sent_at_epoch_s

    def clamp_wait(self, seconds: float) -> float:
        """The wait, at most `max_reset_s`."""
        if seconds > self.max_reset_s:
            self.clamped = True
            return self.max_reset_s
        return seconds

    def parse_number(self, name: str) -> float | None:
        """The number in this field, or None."""
        text = self.fields.get(name)
        return None if text is None else number(text)

    def is_true(self, name: str) -> bool:
        """Whether this field says true."""
        return self.fields.get(name, "").strip(" \t").lower() == "true"

    def parse_label(self, name: str) -> str | None:
        """The word in this field, or None where it is anything but one plain short word."""
        text = self.fields.get(name, "").strip(" \t")
        return text if 0 < len(text) <= _MAX_LABEL_LENGTH and _LABEL_CHARACTERS.issuperset(text) else None


class WindowFields(Struct, frozen=True):
    """The fields of one window: header names where the upstream sends them, values where they are known."""

    name: str = "default"
    limit: str = ""
    remaining: str = ""
    used: str = ""
    reset: tuple[str, ...] = ()
    """The first usable one counts."""
    reset_parser: Callable[[str, Callable[[], float], float], ResetTime | None] = parse_reset
    reset_unit_s: float = 1.0
    per_ms: str = ""
    per_s: float | None = None
    unit: str = "requests"
    refills: bool = False
    candidate_per_s: tuple[float, ...] = ()
    """Lengths that this window may have, where the speed of the refill shows which."""

    def field_names(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.limit, self.remaining, self.used, *self.reset, self.per_ms)))


class KnownWindow(Struct, frozen=True):
    """What is known of a window by the name that an upstream gives it."""

    per_s: float
    unit: str = "requests"


class Dialect(Struct, frozen=True):
    """How one upstream writes its limits; every string is a header name unless said otherwise."""

    name: str
    """Its name in a configuration."""
    windows: tuple[WindowFields, ...] = ()
    signature_fields: tuple[str, ...] = ()
    """Names that identify it when no dialect is configured."""
    windows_parser: Callable[[RateHeaders], tuple[RateWindowInfo, ...]] | None = None
    """A parser of its own, where a field holds more than one value."""
    parsed_fields: tuple[str, ...] = ()
    """The fields that this parser reads."""
    window_name: str = ""
    known_windows: Mapping[str, KnownWindow] = MappingProxyType({})
    scope: str = ""
    global_scope: str = ""
    bucket: str = ""
    reason: str = ""
    near_limit: str = ""
    vendor_wait: str = ""
    """The vendor's own field for the wait after a refusal, in seconds."""
    default_wait_s: float | None = None
    """The wait that its documentation asks for after a 429 that names none."""
    is_ietf: bool = False
    """Its reset is a time to wait, and takes precedence over a vendor's own field."""

    def field_names(self) -> frozenset[str]:
        """Every header name it reads, without the fields of `retry_after.py`."""
        plain = (
            self.window_name,
            self.scope,
            self.global_scope,
            self.bucket,
            self.reason,
            self.near_limit,
            self.vendor_wait,
        )
        window_fields = (name for window in self.windows for name in window.field_names())
        return frozenset((*self.parsed_fields, *window_fields, *filter(None, plain)))


def parse_windows(dialect: Dialect, headers: RateHeaders) -> tuple[RateWindowInfo, ...]:
    """The windows that this dialect finds in a response; a malformed field counts as absent."""
    if dialect.windows_parser is not None:
        return dialect.windows_parser(headers)
    found: list[RateWindowInfo] = []
    for window_fields in dialect.windows:
        window = _parse_window(window_fields, dialect, headers)
        if window is not None and all(window.name != other.name for other in found):
            found.append(window)
    return tuple(found)


def _parse_window(window_fields: WindowFields, dialect: Dialect, headers: RateHeaders) -> RateWindowInfo | None:
    # Upstreams write 0 where there is no limit or none is known; as a limit it could never be paid.
    limit = headers.parse_number(window_fields.limit) or None
    remaining = headers.parse_number(window_fields.remaining)
    used = headers.parse_number(window_fields.used)
    if used is not None:
        if remaining is None and limit is not None:
            remaining = max(0.0, limit - used)
        elif limit is None and remaining is not None:
            limit = used + remaining or None
    reset_time = _parse_reset_time(window_fields, headers)
    if limit is None and remaining is None and reset_time is None:
        return None
    reset_s, whole_seconds = (None, False) if reset_time is None else reset_time
    label = headers.parse_label(dialect.window_name) if dialect.window_name else None
    known = dialect.known_windows.get(label or window_fields.name)
    return RateWindowInfo(
        name=label or window_fields.name,
        unit=window_fields.unit if known is None else known.unit,
        limit=limit,
        remaining=remaining,
        reset_after_s=None if reset_s is None else headers.clamp_wait(reset_s),
        per_s=_window_length_s(window_fields, headers, limit, remaining, reset_s) if known is None else known.per_s,
        whole_seconds=whole_seconds,
        refills=window_fields.refills,
    )


def _parse_reset_time(window_fields: WindowFields, headers: RateHeaders) -> ResetTime | None:
    for name in window_fields.reset:
        text = headers.fields.get(name)
        reset_time = (
            None
            if text is None
            else window_fields.reset_parser(text, headers.sent_at_epoch_s, window_fields.reset_unit_s)
        )
        if reset_time is not None:
            return reset_time
    return None


def _window_length_s(
    window_fields: WindowFields,
    headers: RateHeaders,
    limit: float | None,
    remaining: float | None,
    reset_s: float | None,
) -> float | None:
    if window_fields.per_ms:
        ms = headers.parse_number(window_fields.per_ms)
        return ms / 1000 if ms else None
    if window_fields.candidate_per_s and limit and remaining is not None and reset_s and remaining < limit:
        # The used part refills by the reset, so the whole limit takes longer in proportion.
        seconds = reset_s * limit / (limit - remaining)
        return next(
            (candidate_s for candidate_s in window_fields.candidate_per_s if 0.75 < seconds / candidate_s < 1.33), None
        )
    return window_fields.per_s
