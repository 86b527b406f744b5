"""The order of the layers, proved by what can be seen from outside: who holds what while it waits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from paceline.model import Batch, Item, Priority, Rate, Request, Response, Strategy
from paceline.resilience.layer import compose
from support.in_memory_upstream import (
    InMemoryUpstream,
    in_memory_service,
    is_idle,
    items,
    never_respond,
    outcome_codes,
    respond_with,
    run_batch,
)
from support.virtual_clock import virtual_time

FAST = Rate(1000, 1.0, 1000)
STRATEGY_FIELDS: dict[Strategy, dict[str, Any]] = {
    Strategy.CONCURRENT: {},
    Strategy.BOUNDED: {"max_concurrency": 1},
    Strategy.TOKEN_BUCKET: {"max_concurrency": 1, "rate": FAST},
    Strategy.ADAPTIVE: {"max_concurrency": 1},
}
each_strategy = pytest.mark.parametrize("strategy", list(STRATEGY_FIELDS))


def batch(strategy: Strategy, count: int, **fields: Any) -> Batch:
    return Batch(items(count), strategy=strategy, **{**STRATEGY_FIELDS[strategy], **fields})


@virtual_time
async def test_the_first_layer_is_outermost():
    seen: list[str] = []

    def layer(name: str) -> Any:
        async def call(request: Any, call_next: Any) -> Any:
            seen.append(name)
            try:
                return await call_next(request)
            finally:
                seen.append(f"/{name}")

        return call

    async def send(request: Request) -> Response:
        seen.append("send")
        return Response(200, (), b"")

    await compose([layer("a"), layer("b")], send)(None)  # type: ignore[arg-type]  # the layers only pass it on
    assert seen == ["a", "b", "send", "/b", "/a"]


@each_strategy
@virtual_time
async def test_an_item_in_backoff_holds_no_permit(strategy: Strategy):
    upstream = InMemoryUpstream(respond_with(500, ("retry-after-ms", "5000"), after_s=0.1))
    with in_memory_service(upstream, concurrency={"limit": 1}) as service:
        outcomes = await run_batch(service, batch(strategy, 2))
    assert outcome_codes(outcomes) == ["success", "success"]
    assert [sent.request.url.target for sent in upstream.sent] == ["/0", "/1", "/0"]
    assert upstream.sent_times == pytest.approx([1000.0, 1000.1, 1005.1])


@each_strategy
@virtual_time
async def test_the_deadline_ends_every_kind_of_wait(strategy: Strategy):
    upstream = InMemoryUpstream(never_respond())
    with in_memory_service(upstream, concurrency={"limit": 1}, timeout={"attempt": "60s", "item": "60s"}) as service:
        began_at = time.perf_counter()
        outcomes = await run_batch(service, batch(strategy, 3, deadline_s=2.0))
        assert time.perf_counter() - began_at == pytest.approx(2.0)
        assert outcome_codes(outcomes) == ["deadline_exceeded"] * 3
        assert [outcome.error.sent for outcome in outcomes] == [True, False, False]
        assert is_idle(service)


@each_strategy
@virtual_time
async def test_the_attempt_timeout_does_not_count_the_wait_for_a_permit(strategy: Strategy):
    upstream = InMemoryUpstream(after_s=0.9)
    with in_memory_service(upstream, concurrency={"limit": 1}, timeout={"attempt": "1s", "item": "1s"}) as service:
        outcomes = await run_batch(service, batch(strategy, 4))
    assert outcome_codes(outcomes) == ["success"] * 4
    assert outcomes[3].timing.queue_ms == pytest.approx(2700.0)


@virtual_time
async def test_what_waits_for_the_semaphore_has_taken_no_token():
    """With the token first, the five that wait would go at one moment once five permits are free."""
    upstream = InMemoryUpstream()
    released = asyncio.Event()

    async def held(request: Request) -> Response:
        request.exchange.mark_written(time.perf_counter())
        await released.wait()
        return Response(200, (), b"")

    upstream.script_path("/0", held)
    for index in range(1, 5):
        upstream.script_path(f"/{index}", held)
    own = Batch(items(10), strategy=Strategy.TOKEN_BUCKET, max_concurrency=5, rate=Rate(8, 1.0, 1))
    with in_memory_service(upstream) as service:
        running = asyncio.create_task(run_batch(service, own))
        await asyncio.sleep(3.0)
        assert len(upstream.sent) == 5
        released.set()
        await running
    gaps = [after - before for before, after in zip(upstream.sent_times[5:], upstream.sent_times[6:], strict=False)]
    assert gaps == pytest.approx([0.125] * 4)


@virtual_time
async def test_what_waits_for_the_token_bucket_holds_no_permit_of_the_upstream():
    upstream = InMemoryUpstream(after_s=0.1)
    slow = Batch(items(3), strategy=Strategy.TOKEN_BUCKET, rate=Rate(1, 1.0, 1))
    with in_memory_service(upstream, concurrency={"limit": 1}) as service:
        running = asyncio.create_task(run_batch(service, slow))
        await asyncio.sleep(0.5)
        (other,) = await run_batch(service, Batch(items(1)))
        assert other.timing.queue_ms == 0.0
        await running
    assert upstream.sent_times == pytest.approx([1000.0, 1000.5, 1001.0, 1002.0])


@virtual_time
async def test_the_semaphore_stands_before_the_gate():
    with in_memory_service(InMemoryUpstream()) as service:
        (upstream,) = service.registry
        upstream.async_gate.set_paused(True)
        running = asyncio.create_task(run_batch(service, Batch(items(9), strategy=Strategy.BOUNDED, max_concurrency=2)))
        await asyncio.sleep(1.0)
        assert upstream.async_gate.gate.queued == 2
        upstream.async_gate.set_paused(False)
        assert outcome_codes(await running) == ["success"] * 9


@virtual_time
async def test_concurrent_and_adaptive_wait_in_the_gate_alone():
    for strategy in (Strategy.CONCURRENT, Strategy.ADAPTIVE):
        with in_memory_service(InMemoryUpstream()) as service:
            (upstream,) = service.registry
            upstream.async_gate.set_paused(True)
            running = asyncio.create_task(run_batch(service, Batch(items(9), strategy=strategy)))
            await asyncio.sleep(1.0)
            assert upstream.async_gate.gate.queued == 9
            upstream.async_gate.set_paused(False)
            await running


@virtual_time
async def test_sequential_sends_one_after_another_in_request_order():
    upstream = InMemoryUpstream(after_s=0.5)
    with in_memory_service(upstream) as service:
        outcomes = await run_batch(service, Batch(items(4), strategy=Strategy.SEQUENTIAL))
    assert upstream.in_flight_max == 1
    assert [sent.request.url.target for sent in upstream.sent] == ["/0", "/1", "/2", "/3"]
    assert [outcome.timing.start_ms for outcome in outcomes] == pytest.approx([0, 500, 1000, 1500])
    assert [outcome.timing.total_ms for outcome in outcomes] == pytest.approx([500] * 4)


@virtual_time
async def test_concurrent_sends_everything_at_once_where_nothing_is_declared():
    upstream = InMemoryUpstream()
    with in_memory_service(upstream) as service:
        await run_batch(service, Batch(items(150), strategy=Strategy.CONCURRENT))
    assert upstream.in_flight_max == 150


@virtual_time
async def test_declared_windows_bind_every_strategy_and_every_attempt():
    for strategy in STRATEGY_FIELDS:
        upstream = InMemoryUpstream(respond_with(500, after_s=0.01), respond_with(500, after_s=0.01), after_s=0.01)
        with in_memory_service(upstream, rate=[{"limit": 2, "per": "1s"}], retry={"base": "1ms"}) as service:
            assert outcome_codes(await run_batch(service, batch(strategy, 6))) == ["success"] * 6
        times = upstream.sent_times
        assert len(times) == 8
        assert all(later - earlier >= 1.0 for earlier, later in zip(times, times[2:], strict=False))


@virtual_time
async def test_bounded_keeps_to_twenty_unless_told_otherwise():
    upstream = InMemoryUpstream()
    with in_memory_service(upstream) as service:
        await run_batch(service, Batch(items(50), strategy=Strategy.BOUNDED))
    assert upstream.in_flight_max == 20


@virtual_time
async def test_an_adaptive_batch_s_own_cap_and_rate_bind_it_and_nobody_else():
    upstream = InMemoryUpstream(after_s=1.0)
    with in_memory_service(upstream) as service:
        capped = asyncio.create_task(run_batch(service, Batch(items(6), max_concurrency=2)))
        other = asyncio.create_task(run_batch(service, Batch(items(10))))
        await asyncio.sleep(0.5)
        assert upstream.in_flight == 12
        await asyncio.gather(capped, other)


@pytest.mark.parametrize("answer_s", [0.01, 4.0])
@virtual_time
async def test_an_adaptive_batch_s_own_rate_is_used_whole_however_slow_the_answers(answer_s: float):
    upstream = InMemoryUpstream(after_s=answer_s)
    with in_memory_service(upstream) as service:
        await run_batch(service, Batch(items(8), rate=Rate(2, 1.0, 2)))
    assert upstream.sent_times == pytest.approx([1000, 1000, 1001, 1001, 1002, 1002, 1003, 1003], abs=0.2)


@virtual_time
async def test_an_own_rate_in_another_unit_counts_that_unit():
    upstream = InMemoryUpstream(after_s=0.01)
    with in_memory_service(upstream) as service:
        cheap = [Item(upstream="api", path=f"/{index}", cost={"tokens": 10}) for index in range(20)]
        outcomes = await run_batch(service, Batch(cheap, rate=Rate(100, 1.0, 100, "tokens")))
    assert outcome_codes(outcomes) == ["success"] * 20
    assert sum(moment < 1000.9 for moment in upstream.sent_times) == 10
    assert upstream.sent_times[-1] < 1002.0


@virtual_time
async def test_an_interactive_call_overtakes_a_normal_batch_in_the_queue():
    upstream = InMemoryUpstream(after_s=1.0)
    with in_memory_service(upstream, concurrency={"limit": 1}) as service:
        many = asyncio.create_task(run_batch(service, Batch(items(10))))
        await asyncio.sleep(0.5)
        (call,) = await run_batch(service, Batch(items(1), priority=Priority.INTERACTIVE))
        assert call.timing.queue_ms == pytest.approx(500.0)
        await many
