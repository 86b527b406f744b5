"""An item that ran out of its batch's time says what it waited for, in its message and in its receipt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from paceline.model import Batch, Outcome, Rate, Strategy
from support.in_memory_upstream import (
    InMemoryUpstream,
    in_memory_service,
    items,
    never_respond,
    outcome_codes,
    run_batch,
)
from support.virtual_clock import virtual_time

STRATEGY_FIELDS: dict[Strategy, dict[str, Any]] = {
    Strategy.BOUNDED: {"max_concurrency": 1},
    Strategy.TOKEN_BUCKET: {"rate": Rate(1, 1.0, 1)},
}


def message(outcome: Outcome) -> str:
    assert outcome.error is not None
    assert outcome.error.code == "deadline_exceeded"
    return outcome.error.message


@pytest.mark.parametrize("strategy", list(Strategy))
@virtual_time
async def test_under_an_operators_pause_it_says_so(strategy: Strategy):
    """However many of them come as far as the gate that is shut."""
    with in_memory_service(InMemoryUpstream()) as service:
        service.registry.get("api").async_gate.set_paused(True)
        outcomes = await run_batch(
            service, Batch(items(4), strategy, deadline_s=10.0, **STRATEGY_FIELDS.get(strategy, {}))
        )
    assert all("an operator has paused its upstream; resume it" in message(outcome) for outcome in outcomes)
    assert outcomes[0].timing.limited_by == "pause"
    assert outcomes[0].timing.pause_ms == pytest.approx(10_000, abs=5)


@virtual_time
async def test_paused_under_way_what_is_in_flight_goes_on_and_the_rest_says_so():
    with in_memory_service(InMemoryUpstream(after_s=1.0), concurrency={"limit": 2}) as service:
        running = asyncio.create_task(run_batch(service, Batch(items(4), deadline_s=10.0)))
        await asyncio.sleep(0.5)
        service.registry.get("api").async_gate.set_paused(True)
        outcomes = await running
    assert outcome_codes(outcomes)[:2] == ["success"] * 2
    for outcome in outcomes[2:]:
        assert "an operator has paused" in message(outcome)
        assert outcome.timing.limited_by == "pause"


@virtual_time
async def test_paused_or_not_an_upstream_that_does_not_answer_is_what_it_waited_for():
    with in_memory_service(
        InMemoryUpstream(default=never_respond()), timeout={"attempt": "1m", "item": "1m"}
    ) as service:
        running = asyncio.create_task(run_batch(service, Batch(items(1), deadline_s=10.0)))
        await asyncio.sleep(6.0)
        service.registry.get("api").async_gate.set_paused(True)
        (outcome,) = await running
    assert "it waited 10 s for the upstream to answer; allow more time" in message(outcome)
    assert outcome.timing.limited_by == "upstream"


@virtual_time
async def test_held_back_by_its_rate_it_says_so():
    with in_memory_service(InMemoryUpstream()) as service:
        batch = Batch(items(3), Strategy.TOKEN_BUCKET, rate=Rate(1, 60.0, 1), deadline_s=10.0)
        first, *late = await run_batch(service, batch)
    assert first.error is None
    for outcome in late:
        assert "it waited 10 s for its turn within the rate; allow more time or send fewer items" in message(outcome)
        assert outcome.timing.limited_by == "rate"


@pytest.mark.parametrize("strategy", [Strategy.CONCURRENT, Strategy.BOUNDED, Strategy.ADAPTIVE])
@virtual_time
async def test_held_back_for_want_of_a_permit_it_says_so(strategy: Strategy):
    policy = {"timeout": {"attempt": "1m", "item": "1m"}, "concurrency": {"limit": 1}}
    with in_memory_service(InMemoryUpstream(default=never_respond()), **policy) as service:
        first, *late = await run_batch(
            service, Batch(items(3), strategy, deadline_s=10.0, **STRATEGY_FIELDS.get(strategy, {}))
        )
    assert "for the upstream to answer" in message(first)
    for outcome in late:
        assert "it waited 10 s for one of the calls allowed in flight to end" in message(outcome)
        assert outcome.timing.limited_by == "concurrency"


@virtual_time
async def test_what_never_had_its_turn_says_so():
    with in_memory_service(InMemoryUpstream(after_s=8.0)) as service:
        outcomes = await run_batch(service, Batch(items(3), Strategy.SEQUENTIAL, deadline_s=10.0))
    assert "its turn never came; allow more time or send fewer items" in message(outcomes[2])
