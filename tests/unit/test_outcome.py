"""What an item gives back: headers joined, errors told, receipts in milliseconds."""

from __future__ import annotations

import json

import msgspec
import pytest
from msgspec import Raw

from paceline.batch.outcome import (
    OutcomeContext,
    build_timing,
    join_headers,
    outcome_from_error,
    outcome_from_response,
    outcome_without_response,
)
from paceline.errors import ConnectFailed, EgressDenied, Overloaded
from paceline.model import ErrorCode, Expect, OutcomeKind, Receipt, Response, Verdict

JSON = "application/json"


def subject(**fields: object) -> OutcomeContext:
    whole = {"id": "a", "index": 0, "expect": Expect.AUTO, "start_s": 0.0, "receipt": Receipt()}
    return OutcomeContext(**{**whole, **fields})


def test_repeated_headers_are_joined_and_set_cookie_is_always_a_list():
    headers = (("vary", "a"), ("set-cookie", "x=1, 2"), ("vary", "b"), ("set-cookie", "y=2"), ("etag", '"1"'))
    assert join_headers(headers) == {"vary": "a, b", "set-cookie": ["x=1, 2", "y=2"], "etag": '"1"'}
    assert join_headers((("set-cookie", "x=1"),)) == {"set-cookie": ["x=1"]}


def test_fields_of_the_connection_are_not_given_to_the_caller():
    names = ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")
    assert join_headers((*((name, "x") for name in names), ("te", "y"))) == {"te": "y"}


@pytest.mark.parametrize("status", [200, 204, 206, 301, 304, 399])
def test_a_status_below_400_is_a_success(status: int):
    outcome = outcome_from_response(subject(), Response(status, (), b""), 0.0)
    assert (outcome.outcome, outcome.error, outcome.status) == (OutcomeKind.SUCCESS, None, status)


def test_a_status_from_400_is_an_http_error_that_keeps_status_headers_and_body():
    response = Response(404, (("content-type", JSON), ("x", "1")), b'{"gone":true}')
    outcome = outcome_from_response(subject(), response, 0.0)
    assert (outcome.outcome, outcome.status, outcome.headers["x"]) == (OutcomeKind.HTTP_ERROR, 404, "1")
    assert outcome.body == Raw(b'{"gone":true}')
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.sent) == ("http_status", True)
    assert outcome.error.message == "the upstream answered 404 Not Found"


def test_a_refusal_for_rate_has_its_own_code_and_the_wait():
    receipt = Receipt(verdict=Verdict.THROTTLED, retry_after_s=1.5)
    outcome = outcome_from_response(subject(receipt=receipt), Response(429, (), b""), 0.0)
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.retry_after_ms) == ("throttled", 1500.0)


def test_a_status_nobody_has_named_is_told_all_the_same():
    outcome = outcome_from_response(subject(), Response(599, (), b""), 0.0)
    assert outcome.error is not None
    assert outcome.error.message == "the upstream answered 599"


def test_an_error_of_ours_tells_code_message_and_wait():
    outcome = outcome_from_error(subject(), Overloaded("full", retry_after_s=2.0), 0.5)
    assert (outcome.outcome, outcome.status, outcome.body) == (OutcomeKind.REJECTED, None, None)
    assert outcome.error == msgspec.convert(
        {"code": "overloaded", "message": "full", "sent": False, "retry_after_ms": 2000.0}, type(outcome.error)
    )
    assert outcome.timing.total_ms == 500.0


def test_sent_is_false_only_where_no_attempt_can_have_arrived():
    def told(error: Exception, *, earlier: bool) -> bool:
        outcome = outcome_from_error(subject(receipt=Receipt(sent=earlier)), error, 0.0)
        assert outcome.error is not None
        return outcome.error.sent

    assert told(EgressDenied("no"), earlier=False) is False
    assert told(EgressDenied("no"), earlier=True) is True
    assert told(ConnectFailed("no"), earlier=False) is False
    assert told(ConnectFailed("no"), earlier=True) is True
    assert told(ConnectFailed("no", sent=True), earlier=False) is True


def test_an_outcome_encodes_to_the_documented_object():
    outcome = outcome_without_response(subject(id="x", index=7), ErrorCode.HALTED, "said", 0.0)
    assert json.loads(msgspec.json.encode(outcome)) == {
        "id": "x",
        "index": 7,
        "upstream": "other",
        "outcome": "rejected",
        "status": None,
        "headers": {},
        "body": None,
        "body_encoding": "none",
        "attempts": 0,
        "error": {"code": "halted", "message": "said", "sent": False, "retry_after_ms": None},
        "timing": {
            "start_ms": 0.0,
            "total_ms": 0.0,
            "queue_ms": 0.0,
            "rate_wait_ms": 0.0,
            "pause_ms": 0.0,
            "backoff_ms": 0.0,
            "upstream_ms": 0.0,
            "limited_by": "upstream",
        },
    }


@pytest.mark.parametrize(
    ("part", "limit"),
    [
        ("upstream_s", "upstream"),
        ("rate_wait_s", "rate"),
        ("queue_s", "concurrency"),
        ("pause_s", "pause"),
        ("backoff_s", "backoff"),
    ],
)
def test_an_item_is_limited_by_its_largest_part(part: str, limit: str):
    receipt = Receipt(upstream_s=0.1, rate_wait_s=0.1, queue_s=0.1, pause_s=0.1, backoff_s=0.1)
    setattr(receipt, part, 0.2)
    told = build_timing(receipt, 0.0, 0.6)
    assert told.limited_by == limit
    assert told.queue_ms + told.rate_wait_ms + told.pause_ms + told.backoff_ms + told.upstream_ms == pytest.approx(600)
