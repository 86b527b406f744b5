"""What one attempt says: the one function that retry, admission and metrics go by."""

from __future__ import annotations

from paceline.errors import AttemptError, ItemTimeout, PacelineError
from paceline.model import Response, Verdict
from paceline.resilience.retry_after import parse_retry_after

_HEALTHY_5XX = frozenset({501, 505, 511})
"""Not what was asked for, but the answer of a server in good health."""


def classify_attempt(
    answer: Response | BaseException, transient_statuses: frozenset[int], *, exhausted: bool = False
) -> Verdict:
    """Judge an attempt's answer; `transient` are the statuses that another try may better.

    `exhausted`: its rate headers, in whatever dialect, told of a window with nothing left.
    """
    if isinstance(answer, Response):
        status = answer.status
        if status < 400:
            return Verdict.SUCCESS
        if status == 429 or (status in (403, 503) and (exhausted or parse_retry_after(answer) is not None)):
            return Verdict.THROTTLED
        return Verdict.TRANSIENT if status in transient_statuses else Verdict.PERMANENT
    if isinstance(answer, AttemptError):
        return Verdict.PERMANENT if answer.code == "body_too_large" else Verdict.TRANSIENT
    if isinstance(answer, ItemTimeout):
        return Verdict.TRANSIENT
    return Verdict.IGNORED


def health_of(verdict: Verdict, status: int | None) -> bool | None:
    """What an attempt says of the upstream's health; None where it says nothing (throttled, cancelled, never sent)."""
    if verdict is Verdict.SUCCESS:
        return True
    if verdict is Verdict.TRANSIENT:
        return False
    if verdict is Verdict.PERMANENT:
        return status is None or status < 500 or status in _HEALTHY_5XX
    return None


def is_safe_to_repeat(repeatable: bool, answer: Response | PacelineError, verdict: Verdict) -> bool:
    """May it be sent again: a safe request, or one the upstream certainly did not act on."""
    if repeatable:
        return True
    if isinstance(answer, Response):
        return verdict is Verdict.THROTTLED and answer.status != 503
    return not answer.sent
