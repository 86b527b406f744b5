"""Read the rate limits an answer tells: by the dialect that is configured, or by the names that are seen."""

from __future__ import annotations

from collections.abc import Iterator

from paceline.http_values import number
from paceline.model import Headers
from paceline.rate.dialects.refusal import refusal_of
from paceline.rate.dialects.table import Answer, Dialect, windows_of
from paceline.rate.dialects.vendors import ALL, DRAFT06, DRAFT07, GENERIC, IETF, INTERIM, REDDIT, RFC9110, TOLD_APART
from paceline.rate.rate_info import RateInfo, RateWindowInfo

AUTO = "auto"
DIALECTS: tuple[str, ...] = (AUTO, *(dialect.name for dialect in ALL))
"""The words a configuration may use."""

_MS_NAMES = ("retry-after-ms", "x-ms-retry-after-ms")
WAIT_NAMES = frozenset((*_MS_NAMES, "retry-after"))
"""Read in every dialect."""

_LISTS = frozenset({"ratelimit", "ratelimit-policy"})
"""A repeated one goes on where the first ended; of any other field the first counts."""

_BY_NAME = {dialect.name: dialect for dialect in ALL}
_READS = {dialect.name: dialect.names() | WAIT_NAMES for dialect in ALL} | {
    AUTO: frozenset(name for dialect in ALL for name in (*dialect.names(), *dialect.signs)) | WAIT_NAMES
}
_BY_RANK = (DRAFT06, *TOLD_APART, GENERIC)
_RANK = {name: rank for rank, dialect in reversed([*enumerate(_BY_RANK)]) for name in dialect.signs}
"""The most particular dialect that a name is a sign of."""


def read(
    response_headers: Headers,
    dialect: str = AUTO,
    *,
    status: int,
    now_epoch_s: float,
    max_reset_s: float,
    body: bytes = b"",
) -> RateInfo | None:
    """What this answer tells of the upstream's limits, or None where it tells nothing that can be used.

    `dialect` is one of `DIALECTS`. Names are lower case. Waits and resets are at most `max_reset_s`. The body is looked
    at only beside a 429 or 503 that has rate headers. Whatever an upstream sends, this raises nothing; an answer out of
    a cache (an Age above zero) tells nothing.
    """
    names = _READS[dialect]
    fields: dict[str, str] | None = None
    for name, value in response_headers:
        if name in names:
            if fields is None:
                fields = {name: value}
            elif name not in fields:
                fields[name] = value
            elif name in _LISTS:
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
    answer = Answer(fields, date, now_epoch_s, max_reset_s)
    chosen, windows = _recognised(answer) if dialect == AUTO else (_BY_NAME[dialect], None)
    return _told(chosen, windows_of(chosen, answer) if windows is None else windows, answer, status, body)


def _recognised(answer: Answer) -> tuple[Dialect, tuple[RateWindowInfo, ...]]:
    """The likeliest dialect that finds a window, with its windows; else the likeliest, with none."""
    likeliest = RFC9110
    for candidate in _candidates(answer.fields):
        windows = windows_of(candidate, answer)
        if windows:
            return candidate, windows
        if likeliest is RFC9110:
            likeliest = candidate
    return likeliest, ()


def _candidates(fields: dict[str, str]) -> Iterator[Dialect]:
    """The dialects these names are signs of, the likeliest first: the standard's fields, then the most particular."""
    if "ratelimit" in fields:
        text = fields["ratelimit"].lstrip(" ")
        if text.startswith('"'):
            yield IETF
        elif text.startswith(("limit=", "remaining=", "reset=")) and "policy=" not in text:
            yield DRAFT07
        else:
            yield INTERIM
    ranks = {_RANK[name] for name in fields if name in _RANK}
    if "x-ratelimit-used" in fields and "x-ratelimit-limit" not in fields:
        ranks.add(_BY_RANK.index(REDDIT))
    for rank in sorted(ranks):
        yield _BY_RANK[rank]
    if "ratelimit-policy" in fields and "ratelimit" not in fields:
        text = fields["ratelimit-policy"].lstrip(" ")
        yield IETF if text.startswith('"') else DRAFT06 if text[:1].isdigit() else INTERIM


def _told(
    dialect: Dialect, windows: tuple[RateWindowInfo, ...], answer: Answer, status: int, body: bytes
) -> RateInfo | None:
    reason, violated = refusal_of(body) if status in (429, 503) else (None, ())
    if dialect.reason:
        reason = answer.label(dialect.reason) or reason
    wait_s = _refusal_wait_s(dialect, windows, violated, answer, status)
    scope = answer.label(dialect.scope) if dialect.scope else None
    if dialect.global_scope and answer.yes(dialect.global_scope):
        scope = "global"
    bucket = answer.label(dialect.bucket) if dialect.bucket else None
    near_limit = bool(dialect.near_limit) and answer.yes(dialect.near_limit)
    if not (windows or scope or bucket or reason or near_limit) and wait_s is None:
        return None
    retry_after_s = None if wait_s is None else answer.bounded(wait_s)
    return RateInfo(dialect.name, retry_after_s, windows, answer.clamped, scope, bucket, reason, violated, near_limit)


def _refusal_wait_s(
    dialect: Dialect, windows: tuple[RateWindowInfo, ...], violated: tuple[str, ...], answer: Answer, status: int
) -> float | None:
    """The wait a refusal means, by precedence: milliseconds, Retry-After, an IETF reset, the vendor's own."""
    if status < 400:
        return None
    for name in _MS_NAMES:
        ms = answer.count(name)
        if ms is not None:
            return ms / 1000
    named_s = answer.retry_after_s()
    if named_s is not None:
        return named_s
    binding = [window for window in windows if window.exhausted or window.name in violated]
    if status != 429 and not (status in (403, 503) and binding):
        return None
    reset_s = _until_reset_s(binding or [window for window in windows if window.remaining is None])
    if dialect.ietf and reset_s is not None:
        return reset_s
    own_s = answer.count(dialect.wait) if dialect.wait else None
    if own_s is not None:
        return own_s
    return dialect.unnamed_wait_s if reset_s is None else reset_s


def _until_reset_s(windows: list[RateWindowInfo]) -> float | None:
    """The longest of these resets. One that only says when a bucket is full again is no wait."""
    return max(
        (window.reset_after_s for window in windows if window.reset_after_s is not None and not window.refills),
        default=None,
    )
