"""The verdict on one attempt. The admission layer computes it once; retry, breaker, metrics and outcome read it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from paceline.errors import AttemptError, ItemTimeout, PacelineError
from paceline.model import Response, Verdict
from paceline.model.retried_statuses import CONDITIONAL_THROTTLE_STATUSES, THROTTLE_STATUSES

HEALTHY_5XX_REASONS: Mapping[int, str] = MappingProxyType(
    {
        501: "the upstream does not support the method",
        505: "the upstream does not support the HTTP version",
        511: "the network asks for a login",
    }
)
"""5xx of an upstream in good health, and why."""


def classify_attempt(
    answer: Response | BaseException, transient_statuses: frozenset[int], *, rate_limited: bool = False
) -> Verdict:
    """Classify what an attempt returned or raised.

    Args:
        answer: The response, or the error where there is none.
        transient_statuses: The statuses that another attempt may turn into a success.
        rate_limited: The response names a wait, or its rate headers a window with nothing remaining.
    """
    if isinstance(answer, Response):
        status = answer.status
        if status < 400:
            return Verdict.SUCCESS
        if status in THROTTLE_STATUSES or (rate_limited and status in CONDITIONAL_THROTTLE_STATUSES):
            return Verdict.THROTTLED
        return Verdict.TRANSIENT if status in transient_statuses else Verdict.PERMANENT
    if isinstance(answer, AttemptError):
        return Verdict.PERMANENT if answer.code == "body_too_large" else Verdict.TRANSIENT
    if isinstance(answer, ItemTimeout):
        return Verdict.TRANSIENT
    return Verdict.IGNORED


def health_of(verdict: Verdict, status: int | None) -> bool | None:
    """Whether an attempt shows a healthy upstream; None where it shows nothing (throttled, cancelled, never sent)."""
    if verdict is Verdict.SUCCESS:
        return True
    if verdict is Verdict.TRANSIENT:
        return False
    if verdict is Verdict.PERMANENT:
        return status is None or status < 500 or status in HEALTHY_5XX_REASONS
    return None


def is_safe_to_repeat(repeatable: bool, answer: Response | PacelineError, verdict: Verdict) -> bool:
    """Whether it may be sent again: a safe request, or one that the upstream certainly did not act on."""
    if repeatable:
        return True
    if isinstance(answer, Response):
        return verdict is Verdict.THROTTLED and answer.status < 500
    return not answer.sent
