"""The verdict on an attempt: computed once, where its response is read, and the same for all that go by it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import pytest

from paceline.errors import AttemptTimeout, ConnectFailed, EgressDenied, ProtocolError
from paceline.events import AttemptFinished, Event
from paceline.model import Batch, Rate, Strategy
from paceline.resilience.verdict import classify_attempt
from paceline.retry_after import parse_retry_after
from support.in_memory_upstream import (
    InMemoryUpstream,
    fail_with,
    in_memory_service,
    items,
    outcome_codes,
    respond_with,
    run_batch,
)
from support.virtual_clock import virtual_time

STRATEGIES: dict[Strategy, dict[str, Any]] = {
    Strategy.SEQUENTIAL: {},
    Strategy.CONCURRENT: {},
    Strategy.BOUNDED: {"max_concurrency": 5},
    Strategy.TOKEN_BUCKET: {"max_concurrency": 5, "rate": Rate(1000, 1.0, 1000)},
    Strategy.ADAPTIVE: {},
}
FAILED_RESPONSES = (
    respond_with(500),
    respond_with(503, ("retry-after", "1")),
    respond_with(403, ("x-ratelimit-limit", "9"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1")),
    respond_with(429, ("retry-after-ms", "1500")),
    respond_with(429),
    respond_with(404, ("retry-after", "soon")),
)
ERRORS = (
    fail_with(ConnectFailed, sent=False),
    fail_with(ProtocolError, sent=True),
    fail_with(AttemptTimeout, sent=True),
)


@contextmanager
def calls_counted(*functions: Any) -> Iterator[Counter[str]]:
    """Calls of each function by its name, whichever module makes them."""
    counted: Counter[str] = Counter()
    codes: dict[CodeType, str] = {function.__code__: function.__name__ for function in functions}

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in codes:
            counted[codes[frame.f_code]] += 1

    previous = sys.getprofile()
    sys.setprofile(count)
    try:
        yield counted
    finally:
        sys.setprofile(previous)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
@virtual_time
async def test_an_attempt_is_classified_once_and_its_retry_after_is_parsed_once(strategy: Strategy):
    upstream = InMemoryUpstream(*FAILED_RESPONSES, *ERRORS)
    events: list[Event] = []
    batch = Batch(items(12), strategy=strategy, deadline_s=300.0, **STRATEGIES[strategy])
    with (
        in_memory_service(upstream, event_log=events) as service,
        calls_counted(classify_attempt, parse_retry_after) as calls,
    ):
        outcomes = await run_batch(service, batch)
    assert len(upstream.sent) > 12
    assert outcome_codes(outcomes).count("success") >= 10
    assert calls == {"classify_attempt": len(upstream.sent), "parse_retry_after": len(FAILED_RESPONSES)}
    assert len([event for event in events if isinstance(event, AttemptFinished)]) == len(upstream.sent)


@virtual_time
async def test_an_item_whose_retry_is_rejected_keeps_the_verdict_of_its_last_response():
    exhausted = (("x-ratelimit-limit", "9"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1"))
    upstream = InMemoryUpstream(respond_with(403, *exhausted), fail_with(EgressDenied, sent=False))
    with in_memory_service(upstream) as service:
        (outcome,) = await run_batch(service, Batch(items(1)))
    assert len(upstream.sent) == 2
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code) == (403, "throttled")
