"""What one attempt says: the table of the contract, row by row."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from paceline.errors import (
    AttemptTimeout,
    BodyTooLarge,
    ConnectFailed,
    DeadlineExceeded,
    DnsFailed,
    EgressDenied,
    InvalidRequest,
    ItemTimeout,
    Overloaded,
    ProtocolError,
    TlsFailed,
)
from paceline.model import TRANSIENT_STATUSES, Response, Verdict
from paceline.model.retried_statuses import CONDITIONAL_THROTTLE_STATUSES, THROTTLE_STATUSES
from paceline.resilience.verdict import HEALTHY_5XX_REASONS, classify_attempt, health_of, is_safe_to_repeat

WAIT = ("retry-after", "1")


def judged(status: int, *, rate_limited: bool = False) -> Verdict:
    return classify_attempt(Response(status, (), b""), TRANSIENT_STATUSES, rate_limited=rate_limited)


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ((200, 201, 204, 206, 301, 302, 304, 308), Verdict.SUCCESS),
        (THROTTLE_STATUSES, Verdict.THROTTLED),
        (TRANSIENT_STATUSES, Verdict.TRANSIENT),
        ((400, 401, 403, 404, 405, 409, 410, 418, 422, 451), Verdict.PERMANENT),
        ((*HEALTHY_5XX_REASONS, 507, 525, 599), Verdict.PERMANENT),
    ],
)
def test_each_status_has_its_verdict(statuses: Collection[int], verdict: Verdict):
    assert {status: judged(status) for status in statuses} == dict.fromkeys(statuses, verdict)


def test_503_and_403_that_name_a_wait_are_throttles_and_others_are_not():
    limited = {status for status in range(400, 600) if judged(status, rate_limited=True) is Verdict.THROTTLED}
    assert limited == THROTTLE_STATUSES | CONDITIONAL_THROTTLE_STATUSES
    assert judged(500, rate_limited=True) is Verdict.TRANSIENT
    assert judged(404, rate_limited=True) is Verdict.PERMANENT


def test_a_5xx_speaks_against_the_upstream_but_for_those_of_a_healthy_one():
    health = {status: health_of(judged(status), status) for status in range(400, 600)}
    assert {status for status in range(500, 600) if health[status]} == set(HEALTHY_5XX_REASONS)
    assert {status for status in range(400, 500) if not health[status]} == {408, 425, 429}


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ConnectFailed("x"), Verdict.TRANSIENT),
        (DnsFailed("x"), Verdict.TRANSIENT),
        (TlsFailed("x"), Verdict.TRANSIENT),
        (AttemptTimeout("x"), Verdict.TRANSIENT),
        (ItemTimeout("x"), Verdict.TRANSIENT),
        (ProtocolError("x", sent=True), Verdict.TRANSIENT),
        (BodyTooLarge("x", sent=True), Verdict.PERMANENT),
        (EgressDenied("x"), Verdict.IGNORED),
        (InvalidRequest("x"), Verdict.IGNORED),
        (Overloaded("x"), Verdict.IGNORED),
        (DeadlineExceeded("x"), Verdict.IGNORED),
        (asyncio.CancelledError(), Verdict.IGNORED),
    ],
)
def test_each_error_has_its_verdict(error: BaseException, verdict: Verdict):
    assert classify_attempt(error, TRANSIENT_STATUSES) is verdict


def test_a_throttled_503_may_have_been_acted_on_and_a_429_was_not():
    assert is_safe_to_repeat(False, Response(429, (), b""), Verdict.THROTTLED)
    assert is_safe_to_repeat(False, Response(403, (WAIT,), b""), Verdict.THROTTLED)
    assert not is_safe_to_repeat(False, Response(503, (WAIT,), b""), Verdict.THROTTLED)
    assert is_safe_to_repeat(True, Response(503, (WAIT,), b""), Verdict.THROTTLED)
