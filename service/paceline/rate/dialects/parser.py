"""Parse the rate limits that a response advertises, in the configured dialect or in the one its names identify."""

from __future__ import annotations

from collections.abc import Iterator

from paceline.header_values import number
from paceline.model import Headers
from paceline.model.retried_statuses import CONDITIONAL_THROTTLE_STATUSES, THROTTLE_STATUSES
from paceline.rate.dialects.dialect import Dialect, RateHeaders, parse_windows
from paceline.rate.dialects.error_body import parse_error_body
from paceline.rate.dialects.vendors import (
    ALL_DIALECTS,
    DRAFT06,
    DRAFT07,
    GENERIC,
    IETF,
    INTERIM,
    REDDIT,
    RFC9110,
    WITH_SIGNATURE,
)
from paceline.rate.rate_info import RateInfo, RateWindowInfo
from paceline.retry_after import RETRY_AFTER_FIELDS

AUTO = "auto"
DIALECT_NAMES: tuple[str, ...] = (AUTO, *(dialect.name for dialect in ALL_DIALECTS))
"""What a configuration may name."""

_LIST_FIELDS = frozenset({"ratelimit", "ratelimit-policy"})
"""A repeated one continues the list; of any other field the first counts."""

_DIALECT_BY_NAME = {dialect.name: dialect for dialect in ALL_DIALECTS}
_FIELDS_BY_DIALECT = {dialect.name: dialect.field_names() | RETRY_AFTER_FIELDS for dialect in ALL_DIALECTS} | {
    AUTO: frozenset(name for dialect in ALL_DIALECTS for name in (*dialect.field_names(), *dialect.signature_fields))
    | RETRY_AFTER_FIELDS
}
_BY_SPECIFICITY = (DRAFT06, *WITH_SIGNATURE, GENERIC)
_RANK_BY_SIGNATURE = {
    name: rank for rank, dialect in reversed([*enumerate(_BY_SPECIFICITY)]) for name in dialect.signature_fields
}
"""The most specific dialect that a name identifies."""


def parse_rate_headers(
    response_headers: Headers,
    dialect: str = AUTO,
    *,
    status: int,
    now_epoch_s: float,
    max_reset_s: float,
    retry_after_s: float | None = None,
    body: bytes = b"",
) -> RateInfo | None:
    """Read the limits that a response advertises; None where it advertises nothing usable. Raises nothing.

    A response out of a cache (an Age above zero) advertises nothing.

    Args:
        response_headers: Names in lower case.
        dialect: One of `DIALECT_NAMES`.
        max_reset_s: Waits and resets are cut to it.
        retry_after_s: What `parse_retry_after` found in these headers.
        body: Read only with a 429 or 503 that has rate headers.
    """
    field_names = _FIELDS_BY_DIALECT[dialect]
    fields: dict[str, str] | None = None
    for name, value in response_headers:
        if name in field_names:
            if fields is None:
                fields = {name: value}
            elif name not in fields:
                fields[name] = value
            elif name in _LIST_FIELDS:
                fields[name] = f"{fields[name]}, {value}"
    if fields is None:
        return None
    age = date = None
    for name, value in response_headers:
        if name == "age":
            age = age or number(value)
        elif name == "date":
            date = value
    if age:
        return None
    headers = RateHeaders(fields, date, now_epoch_s, max_reset_s)
    chosen, windows = _detect_dialect(headers) if dialect == AUTO else (_DIALECT_BY_NAME[dialect], None)
    if windows is None:
        windows = parse_windows(chosen, headers)
    return _build_rate_info(chosen, windows, headers, status, retry_after_s, body)


def _detect_dialect(headers: RateHeaders) -> tuple[Dialect, tuple[RateWindowInfo, ...]]:
    """The likeliest dialect that finds a window, with its windows; else the likeliest, with none."""
    likeliest = RFC9110
    for candidate in _candidate_dialects(headers.fields):
        windows = parse_windows(candidate, headers)
        if windows:
            return candidate, windows
        if likeliest is RFC9110:
            likeliest = candidate
    return likeliest, ()


def _candidate_dialects(fields: dict[str, str]) -> Iterator[Dialect]:
    """The dialects that these names identify, likeliest first: the standard's fields, then the most specific."""
    if "ratelimit" in fields:
        text = fields["ratelimit"].lstrip(" ")
        if text.startswith('"'):
            yield IETF
        elif text.startswith(("limit=", "remaining=", "reset=")) and "policy=" not in text:
            yield DRAFT07
        else:
            yield INTERIM
    ranks = {_RANK_BY_SIGNATURE[name] for name in fields if name in _RANK_BY_SIGNATURE}
    if "x-ratelimit-used" in fields and "x-ratelimit-limit" not in fields:
        ranks.add(_BY_SPECIFICITY.index(REDDIT))
    for rank in sorted(ranks):
        yield _BY_SPECIFICITY[rank]
    if "ratelimit-policy" in fields and "ratelimit" not in fields:
        text = fields["ratelimit-policy"].lstrip(" ")
        yield IETF if text.startswith('"') else DRAFT06 if text[:1].isdigit() else INTERIM


def _build_rate_info(
    dialect: Dialect,
    windows: tuple[RateWindowInfo, ...],
    headers: RateHeaders,
    status: int,
    retry_after_s: float | None,
    body: bytes,
) -> RateInfo | None:
    reason, violated = parse_error_body(body) if status in (429, 503) else (None, ())
    if dialect.reason:
        reason = headers.parse_label(dialect.reason) or reason
    wait_s = _throttle_wait_s(dialect, windows, violated, headers, status, retry_after_s)
    scope = headers.parse_label(dialect.scope) if dialect.scope else None
    if dialect.global_scope and headers.is_true(dialect.global_scope):
        scope = "global"
    bucket = headers.parse_label(dialect.bucket) if dialect.bucket else None
    near_limit = bool(dialect.near_limit) and headers.is_true(dialect.near_limit)
    if not (windows or scope or bucket or reason or near_limit) and wait_s is None:
        return None
    clamped_wait_s = None if wait_s is None else headers.clamp_wait(wait_s)
    return RateInfo(dialect.name, clamped_wait_s, windows, headers.clamped, scope, bucket, reason, violated, near_limit)


def _throttle_wait_s(
    dialect: Dialect,
    windows: tuple[RateWindowInfo, ...],
    violated: tuple[str, ...],
    headers: RateHeaders,
    status: int,
    retry_after_s: float | None,
) -> float | None:
    """The wait that a refusal means, by precedence: Retry-After, an IETF reset, the vendor's own field."""
    if status < 400:
        return None
    if retry_after_s is not None:
        return retry_after_s
    binding = [window for window in windows if window.exhausted or window.name in violated]
    if status not in THROTTLE_STATUSES and not (status in CONDITIONAL_THROTTLE_STATUSES and binding):
        return None
    reset_s = _longest_reset_s(binding or [window for window in windows if window.remaining is None])
    if dialect.is_ietf and reset_s is not None:
        return reset_s
    vendor_wait_s = headers.parse_number(dialect.vendor_wait) if dialect.vendor_wait else None
    if vendor_wait_s is not None:
        return vendor_wait_s
    return dialect.default_wait_s if reset_s is None else reset_s


def _longest_reset_s(windows: list[RateWindowInfo]) -> float | None:
    """The longest of these resets. The time until a bucket is full again is no wait."""
    return max(
        (window.reset_after_s for window in windows if window.reset_after_s is not None and not window.refills),
        default=None,
    )
