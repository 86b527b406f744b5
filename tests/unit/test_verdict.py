"""What one attempt says: the table of the contract, row by row."""

from __future__ import annotations

import asyncio

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
from paceline.resilience.verdict import classify_attempt, is_safe_to_repeat

WAIT = ("retry-after", "1")


def judged(status: int, *headers: tuple[str, str]) -> Verdict:
    return classify_attempt(Response(status, headers, b""), TRANSIENT_STATUSES)


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ((200, 201, 204, 206, 301, 302, 304, 308), Verdict.SUCCESS),
        ((429,), Verdict.THROTTLED),
        ((408, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529), Verdict.TRANSIENT),
        ((400, 401, 403, 404, 405, 409, 410, 418, 422, 451), Verdict.PERMANENT),
        ((501, 505, 511, 507, 525, 599), Verdict.PERMANENT),
    ],
)
def test_each_status_has_its_verdict(statuses: tuple[int, ...], verdict: Verdict):
    assert {status: judged(status) for status in statuses} == dict.fromkeys(statuses, verdict)


def test_503_and_403_that_name_a_wait_are_throttles_and_others_are_not():
    assert judged(503, WAIT) is Verdict.THROTTLED
    assert judged(403, WAIT) is Verdict.THROTTLED
    assert judged(500, WAIT) is Verdict.TRANSIENT
    assert judged(404, WAIT) is Verdict.PERMANENT
    assert judged(503, ("retry-after", "nonsense")) is Verdict.TRANSIENT


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
