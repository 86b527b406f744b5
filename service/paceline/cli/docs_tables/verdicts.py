"""The table of verdicts in docs/configuration.md, computed by the functions that retry and the breaker go by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from paceline.errors import AttemptError, DeadlineExceeded, ItemTimeout, PacelineError, Rejected
from paceline.model import TRANSIENT_STATUSES, Response, Verdict
from paceline.model.retried_statuses import (
    CONDITIONAL_THROTTLE_STATUSES,
    THROTTLE_STATUSES,
    TRANSIENT_REASONS,
    format_statuses,
)
from paceline.resilience.verdict import HEALTHY_5XX_REASONS, classify_attempt, health_of

_RETRIED = {
    Verdict.THROTTLED: "after the wait, if safe to repeat",
    Verdict.TRANSIENT: "if safe to repeat",
}
_BREAKER = {True: "success", False: "failure", None: "not counted"}


class VerdictRow(Struct, frozen=True):
    """Attempts that end alike: in one of these statuses, or in one of these errors."""

    label: str
    meaning: str
    statuses: frozenset[int] = frozenset()
    errors: tuple[type[PacelineError], ...] = ()
    rate_limited: bool = False
    retried: bool = True
    """False where the item ends, whatever the verdict on its last attempt."""


def verdict_rows() -> Iterator[VerdictRow]:
    """Every way an attempt can end."""
    healthy = frozenset(HEALTHY_5XX_REASONS)
    other_4xx = frozenset(range(400, 500)) - TRANSIENT_STATUSES - THROTTLE_STATUSES
    other_5xx = frozenset(range(500, 600)) - TRANSIENT_STATUSES - healthy
    yield VerdictRow("1xx to 3xx", "the upstream answered", frozenset(range(100, 400)))
    yield VerdictRow(f"{format_statuses(THROTTLE_STATUSES)}", "the upstream's rate limit is reached", THROTTLE_STATUSES)
    yield VerdictRow(
        f"{format_statuses(CONDITIONAL_THROTTLE_STATUSES)}, with a wait or nothing remaining",
        "a rate limit under another status",
        CONDITIONAL_THROTTLE_STATUSES,
        rate_limited=True,
    )
    for status, reason in TRANSIENT_REASONS.items():
        yield VerdictRow(str(status), reason, frozenset({status}))
    yield VerdictRow("other 4xx", "the upstream refuses this request", other_4xx)
    for status, reason in HEALTHY_5XX_REASONS.items():
        yield VerdictRow(str(status), reason, frozenset({status}))
    yield VerdictRow("other 5xx", "no reason to expect more of another attempt", other_5xx)
    for verdict, meaning in (
        (Verdict.TRANSIENT, "no usable response"),
        (Verdict.PERMANENT, "a response, and more than Paceline reads"),
    ):
        errors = tuple(error for error in AttemptError.__subclasses__() if _classify_error(error) is verdict)
        yield VerdictRow(_codes(errors), meaning, errors=errors)
    yield VerdictRow(_codes((ItemTimeout,)), "the item's own time is used up", errors=(ItemTimeout,), retried=False)
    yield VerdictRow(
        f"rejected, cancelled, {_codes((DeadlineExceeded,))}",
        "ended by the caller or by Paceline",
        errors=(*Rejected.__subclasses__(), DeadlineExceeded),
    )


def verdict_table() -> str:
    """A Markdown table: how an attempt ended, why, its verdict, whether it is tried again, what the breaker counts."""
    lines = ["| an attempt ends in | because | verdict | tried again | circuit breaker |", "|---|---|---|---|---|"]
    for row in verdict_rows():
        verdict, is_healthy = _judge(row)
        retried = _RETRIED.get(verdict, "no") if row.retried else "no"
        lines.append(f"| {row.label} | {row.meaning} | `{verdict}` | {retried} | {_BREAKER[is_healthy]} |")
    return "\n".join(lines) + "\n"


def _judge(row: VerdictRow) -> tuple[Verdict, bool | None]:
    """The verdict and the health that all ends of this row have in common."""
    results = {
        (verdict, health_of(verdict, status))
        for status in row.statuses
        for verdict in (classify_attempt(Response(status, (), b""), TRANSIENT_STATUSES, rate_limited=row.rate_limited),)
    }
    results |= {(verdict, health_of(verdict, None)) for verdict in map(_classify_error, row.errors)}
    (result,) = results
    return result


def _classify_error(error: type[PacelineError]) -> Verdict:
    return classify_attempt(error(""), TRANSIENT_STATUSES)


def _codes(errors: Iterable[type[PacelineError]]) -> str:
    return ", ".join(f"`{error.code}`" for error in errors)
