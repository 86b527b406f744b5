"""Where rate headers leave less than a batch needs, a tenth of the limit is reserved for interactive calls."""

from __future__ import annotations

import asyncio

from paceline.model import Batch, Priority
from support.in_memory_upstream import (
    InMemoryUpstream,
    in_memory_service,
    items,
    outcome_codes,
    respond_with,
    run_batch,
    run_one,
)
from support.virtual_clock import virtual_time

LITTLE = (("x-ratelimit-limit", "100"), ("x-ratelimit-remaining", "20"), ("x-ratelimit-reset", "5"))


@virtual_time
async def test_a_batch_that_comes_at_once_leaves_a_tenth_for_interactive_calls():
    upstream = InMemoryUpstream(respond_with(200, *LITTLE))
    with in_memory_service(upstream, concurrency={"limit": 1000}) as service:
        await run_one(service)
        running = asyncio.create_task(run_batch(service, Batch(items(50))))
        await asyncio.sleep(1.0)
        assert len(upstream.sent) == 1 + 10
        interactive = [await run_one(service, priority=Priority.INTERACTIVE) for _ in range(10)]
        assert outcome_codes(interactive) == ["success"] * 10
        assert all(outcome.timing.rate_wait_ms < 1 for outcome in interactive)
        assert outcome_codes(await running) == ["success"] * 50


@virtual_time
async def test_what_covers_all_that_is_queued_is_spent_to_the_last():
    upstream = InMemoryUpstream(respond_with(200, *LITTLE))
    with in_memory_service(upstream, concurrency={"limit": 1000}) as service:
        await run_one(service)
        outcomes = await run_batch(service, Batch(items(20)))
    assert all(outcome.timing.rate_wait_ms < 1 for outcome in outcomes)
