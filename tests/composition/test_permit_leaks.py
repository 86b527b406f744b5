"""One test for each way a permit or a token can leak."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from paceline.app import Service
from paceline.errors import ConnectFailed, EgressDenied, ProtocolError
from paceline.model import Batch, Rate, Request, Response, Strategy
from support.in_memory_upstream import (
    InMemoryUpstream,
    fail_with,
    in_memory_service,
    is_idle,
    items,
    never_respond,
    outcome_codes,
    respond_with,
    run_batch,
)
from support.virtual_clock import virtual_time

LIMIT = 3
EACH: dict[Strategy, dict[str, Any]] = {
    Strategy.CONCURRENT: {},
    Strategy.BOUNDED: {"max_concurrency": LIMIT},
    Strategy.TOKEN_BUCKET: {"max_concurrency": LIMIT, "rate": Rate(1000, 1.0, 1000)},
    Strategy.ADAPTIVE: {"max_concurrency": LIMIT},
}
each_strategy = pytest.mark.parametrize("strategy", list(EACH))


def serving(upstream: InMemoryUpstream, **policy: Any) -> Any:
    defaults: dict[str, Any] = {"concurrency": {"limit": LIMIT}, "retry": {"attempts": 1}}
    return in_memory_service(upstream, **{**defaults, **policy})


def batch(strategy: Strategy, count: int = 9, **fields: Any) -> Batch:
    return Batch(items(count), strategy=strategy, **{**EACH[strategy], **fields})


async def whole(service: Service, upstream: InMemoryUpstream) -> None:
    """Every permit is back: nothing is held, and the next batch has the whole cap at once."""
    assert is_idle(service)
    assert service.registry._socket_pool.in_flight == 0
    upstream.in_flight_max = 0
    assert outcome_codes(await run_batch(service, Batch(items(LIMIT + 1)))) == ["success"] * (LIMIT + 1)
    assert upstream.in_flight_max == LIMIT


@each_strategy
@virtual_time
async def test_errors_give_their_permits_back(strategy: Strategy):
    upstream = InMemoryUpstream(*[fail_with(ProtocolError, sent=True)] * LIMIT)
    with serving(upstream) as service:
        assert outcome_codes(await run_batch(service, batch(strategy))) == ["protocol_error"] * LIMIT + ["success"] * 6
        assert upstream.in_flight_max == LIMIT
        await whole(service, upstream)


@each_strategy
@virtual_time
async def test_our_own_refusals_give_their_permits_back(strategy: Strategy):
    async def denied(request: Request) -> Response:
        raise EgressDenied("scripted")

    upstream = InMemoryUpstream(*[denied] * LIMIT)
    with serving(upstream) as service:
        outcomes = await run_batch(service, batch(strategy))
        assert outcome_codes(outcomes) == ["egress_denied"] * LIMIT + ["success"] * 6
        assert [outcome.attempts for outcome in outcomes] == [0] * LIMIT + [1] * 6
        await whole(service, upstream)


@each_strategy
@virtual_time
async def test_a_fault_of_an_engine_gives_its_permit_back(strategy: Strategy):
    """A bug costs its item; it must not cost the upstream a permit for the life of the process."""

    async def broken(request: Request) -> Response:
        raise KeyError("a bug")

    upstream = InMemoryUpstream(broken)
    with serving(upstream) as service:
        await service.runner.run(batch(strategy), lambda _: None)
        await whole(service, upstream)


@each_strategy
@virtual_time
async def test_attempt_timeouts_give_their_permits_back(strategy: Strategy):
    upstream = InMemoryUpstream(*[never_respond()] * LIMIT)
    with serving(upstream, timeout={"attempt": "1s"}) as service:
        assert outcome_codes(await run_batch(service, batch(strategy))) == ["attempt_timeout"] * LIMIT + ["success"] * 6
        await whole(service, upstream)


@each_strategy
@virtual_time
async def test_item_timeouts_give_their_permits_back(strategy: Strategy):
    upstream = InMemoryUpstream(*[never_respond()] * LIMIT)
    with serving(upstream, timeout={"item": "1s"}) as service:
        assert outcome_codes(await run_batch(service, batch(strategy))) == ["item_timeout"] * LIMIT + ["success"] * 6
        await whole(service, upstream)


@each_strategy
@virtual_time
async def test_the_deadline_gives_back_what_waits_and_what_is_in_flight(strategy: Strategy):
    upstream = InMemoryUpstream(*[never_respond()] * LIMIT)
    with serving(upstream) as service:
        assert outcome_codes(await run_batch(service, batch(strategy, deadline_s=1.0))) == ["deadline_exceeded"] * 9
        await whole(service, upstream)


async def cancelled(service: Service, running: asyncio.Task[Any]) -> None:
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def stopped(service: Service, running: asyncio.Task[Any]) -> None:
    service.runner.stop_all()
    assert outcome_codes(await running) == ["cancelled"] * LIMIT + ["overloaded"] * 6


@pytest.mark.parametrize("end", [cancelled, stopped])
@each_strategy
@virtual_time
async def test_a_batch_that_is_ended_gives_back_what_waits_and_what_is_in_flight(
    strategy: Strategy, end: Callable[[Service, asyncio.Task[Any]], Awaitable[None]]
):
    upstream = InMemoryUpstream(*[never_respond()] * LIMIT)
    with serving(upstream) as service:
        running = asyncio.create_task(run_batch(service, batch(strategy)))
        await asyncio.sleep(1.0)
        assert upstream.in_flight == LIMIT
        await end(service, running)
        await whole(service, upstream)


@each_strategy
@virtual_time
async def test_halt_gives_back_what_waits_and_what_is_in_flight(strategy: Strategy):
    upstream = InMemoryUpstream(never_respond(), never_respond(), respond_with(404))
    with serving(upstream) as service:
        outcomes = await run_batch(service, batch(strategy, halt=True))
        assert outcome_codes(outcomes) == ["cancelled", "cancelled", "http_status", *["halted"] * 6]
        assert len(upstream.sent) == LIMIT
        await whole(service, upstream)


@each_strategy
@virtual_time
async def test_cancelled_in_backoff_nothing_is_held(strategy: Strategy):
    upstream = InMemoryUpstream(*[respond_with(500, ("retry-after-ms", "9000"))] * LIMIT)
    with serving(upstream, retry={"attempts": 3}) as service:
        running = asyncio.create_task(run_batch(service, batch(strategy, LIMIT)))
        await asyncio.sleep(5.0)
        assert is_idle(service)
        await cancelled(service, running)
        await whole(service, upstream)


@virtual_time
async def test_a_token_never_written_comes_back_and_one_written_does_not():
    for script, left in ((fail_with(ConnectFailed, sent=False), 2.0), (fail_with(ProtocolError, sent=True), 1.0)):
        upstream = InMemoryUpstream(script)
        with serving(upstream, rate=[{"limit": 2, "per": "1m"}]) as service:
            await run_batch(service, Batch(items(1)))
            (window,) = next(iter(service.registry)).async_gate.gate.budgets.snapshot()[0].windows
            assert window.remaining(time.perf_counter(), 0.05) == left


@virtual_time
async def test_a_token_cancelled_before_it_was_written_comes_back():
    async def connecting(request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError("it is never set")

    for script, left in ((connecting, 2.0), (never_respond(), 1.0)):
        upstream = InMemoryUpstream(script)
        with serving(upstream, rate=[{"limit": 2, "per": "1m"}]) as service:
            running = asyncio.create_task(run_batch(service, Batch(items(1))))
            await asyncio.sleep(1.0)
            await cancelled(service, running)
            (window,) = next(iter(service.registry)).async_gate.gate.budgets.snapshot()[0].windows
            assert window.remaining(time.perf_counter(), 0.05) == left


@virtual_time
async def test_an_adaptive_batch_s_own_tokens_are_given_back_where_nothing_was_written():
    upstream = InMemoryUpstream(*[fail_with(ConnectFailed, sent=False, after_s=0.0)] * 2, after_s=0.0)
    with serving(upstream) as service:
        began_at = time.perf_counter()
        await run_batch(service, Batch(items(3), rate=Rate(1, 60.0, 1), deadline_s=500.0))
        assert time.perf_counter() - began_at < 1.0
