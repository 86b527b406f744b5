"""The asyncio side of a gate: one timer, a future for each waiter, and no grant lost on any cancellation."""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import Any

import pytest

from paceline.admission.async_gate import AsyncGate
from paceline.admission.lane import Lane
from paceline.admission.lane_queue import Waiter
from paceline.admission.permit_pool import PermitPool
from paceline.admission.upstream_health import UpstreamHealth
from paceline.errors import InvalidRequest
from paceline.model import ONE_REQUEST, Exchange, Priority, Rate, Receipt, Verdict
from paceline.rate.rate_info import RateInfo, RateWindowInfo
from paceline.resilience.breaker import Breaker, BreakerPolicy
from support.virtual_clock import VirtualClockLoop, virtual_time


def admitting(
    *rates: Rate, limit: float = inf, sockets: PermitPool | None = None, paused: list[float] | None = None
) -> AsyncGate:
    return AsyncGate(
        rates,
        limit=limit,
        adaptive_limit=inf,
        transit_s=0.05,
        max_pause_s=900.0,
        socket_pool=sockets or PermitPool(),
        on_pause=(paused if paused is not None else []).append,
    )


def waiter(admitter: AsyncGate, **cost: float) -> Waiter:
    flow = admitter.gate.open_flow(Lane.ADAPTIVE, Priority.NORMAL, "anonymous", None)
    return Waiter(flow, cost or ONE_REQUEST, Receipt())


def admitted(admitter: AsyncGate, each: Waiter) -> asyncio.Task[None]:
    return asyncio.create_task(admitter.acquire(each))


async def settled() -> None:
    """Let everything run that needs no time."""
    for _ in range(5):
        await asyncio.sleep(0)


def call(admitter: AsyncGate, each: Waiter, verdict: Verdict = Verdict.SUCCESS, **exchange: Any) -> float | None:
    """Write and answer at this moment."""
    now = time.perf_counter()
    admitter.mark_written(each, now)
    return admitter.settle(each, verdict, Exchange(written_at=now, answered_at=now), **exchange)


def free(admitter: AsyncGate) -> bool:
    return (admitter.gate.in_flight, admitter.gate.queued) == (0, 0)


@virtual_time
async def test_who_may_go_goes_without_giving_the_loop_a_turn():
    admitter = admitting(limit=1)
    first = waiter(admitter)
    going = admitter.acquire(first)
    with pytest.raises(StopIteration):
        going.send(None)
    assert first.granted_at == 1000.0


@virtual_time
async def test_the_timer_wakes_who_waits_for_a_token():
    admitter = admitting(Rate(1, 1.0, 1))
    first, second = waiter(admitter), waiter(admitter)
    await admitter.acquire(first)
    call(admitter, first)
    await admitter.acquire(second)
    assert second.granted_at == pytest.approx(1001.001, abs=0.003)
    assert second.receipt.rate_wait_s == pytest.approx(1.0, abs=0.003)


@virtual_time
async def test_a_token_that_is_written_late_sets_the_timer_then():
    admitter = admitting(Rate(1, 1.0, 1))
    first, second = waiter(admitter), waiter(admitter)
    await admitter.acquire(first)
    waiting = admitted(admitter, second)
    await asyncio.sleep(5.0)
    assert not waiting.done()
    admitter.mark_written(first, time.perf_counter())
    await waiting
    assert second.granted_at == pytest.approx(1006.05, abs=0.01)


@virtual_time
async def test_the_end_of_a_call_does_not_wait_for_a_timer_that_is_late():
    admitter = admitting(Rate(2, 1.0, 2))
    first, second, third = (waiter(admitter) for _ in range(3))
    await admitter.acquire(first)
    await admitter.acquire(second)
    waiting = admitted(admitter, third)
    await settled()
    call(admitter, first)
    assert admitter._timer is not None
    admitter._timer.cancel()  # as late as can be
    await asyncio.sleep(2.0)
    call(admitter, second)
    await waiting
    assert third.granted_at == 1002.0


@virtual_time
async def test_cancelled_while_waiting_a_waiter_leaves_the_queue_and_the_next_moves_up():
    admitter = admitting(limit=1)
    first, second, third = (waiter(admitter) for _ in range(3))
    await admitter.acquire(first)
    waiting = [admitted(admitter, each) for each in (second, third)]
    await asyncio.sleep(1.0)
    waiting[0].cancel()
    await settled()
    assert admitter.gate.queued == 1
    assert second.receipt.queue_s == pytest.approx(1.0)
    call(admitter, first)
    await waiting[1]
    call(admitter, third)
    assert free(admitter)


@virtual_time
async def test_cancelled_in_the_turn_it_is_granted_a_waiter_gives_the_grant_back():
    admitter = admitting(Rate(2, 60.0, 2), limit=1)
    first, second, third = (waiter(admitter) for _ in range(3))
    await admitter.acquire(first)
    lost, won = admitted(admitter, second), admitted(admitter, third)
    await settled()
    call(admitter, first)
    assert second.granted_at is not None
    lost.cancel()
    await won
    assert lost.cancelled()
    assert third.granted_at == 1000.0, "the token of what was never written came back as well"
    call(admitter, third)
    assert free(admitter)


@virtual_time
async def test_a_refusal_and_a_cancellation_in_one_turn_leave_nothing_behind():
    admitter = admitting(Rate(10, 60.0, 10))
    blocked = waiter(admitter, requests=10)
    await admitter.acquire(blocked)
    waiting = admitted(admitter, waiter(admitter, requests=9))
    await settled()
    admitter.retune([Rate(5, 60.0, 5)])
    waiting.cancel()
    await settled()
    assert waiting.cancelled()
    call(admitter, blocked)
    assert free(admitter)


@virtual_time
async def test_a_retune_refuses_who_can_never_be_paid_and_lets_go_who_may_now():
    admitter = admitting(Rate(10, 60.0, 10))
    blocked = waiter(admitter, requests=10)
    await admitter.acquire(blocked)
    dear, cheap = admitted(admitter, waiter(admitter, requests=21)), admitted(admitter, waiter(admitter))
    with pytest.raises(InvalidRequest, match="cost 21"):
        await dear
    large = admitted(admitter, waiter(admitter, requests=8))
    await settled()
    admitter.retune([Rate(7, 60.0, 7)])
    with pytest.raises(InvalidRequest, match=r"cost 8 .* 7"):
        await large
    assert not cheap.done()
    admitter.retune([Rate(20, 60.0, 20)])
    await settled()
    assert cheap.done()


@virtual_time
async def test_a_pause_by_hand_is_lifted_at_once_and_by_a_reset():
    admitter = admitting()
    for lift in (lambda: admitter.set_paused(False), lambda: admitter.reset(())):
        admitter.set_paused(True)
        waiting = admitted(admitter, each := waiter(admitter))
        await asyncio.sleep(1.0)
        assert not waiting.done()
        lift()
        await settled()
        assert waiting.done()
        call(admitter, each)


@virtual_time
async def test_a_throttle_is_told_and_a_success_is_not():
    paused: list[float] = []
    admitter = admitting(paused=paused)
    await admitter.acquire(first := waiter(admitter))
    assert call(admitter, first, Verdict.THROTTLED, retry_after_s=3.0) == 3.0
    assert paused == [3.0]
    await admitter.acquire(second := waiter(admitter))
    assert second.granted_at == pytest.approx(1003.0)
    assert call(admitter, second) is None
    assert paused == [3.0]


@virtual_time
async def test_sockets_of_the_process_are_shared_by_gates():
    sockets = PermitPool(1)
    one, two = admitting(sockets=sockets), admitting(sockets=sockets)
    await one.acquire(first := waiter(one))
    waiting = admitted(two, second := waiter(two))
    await asyncio.sleep(1.0)
    assert not waiting.done()
    call(one, first)
    await settled()
    assert waiting.done()
    call(two, second)
    assert sockets.in_flight == 0


@virtual_time
async def test_a_closed_shell_has_no_timer():
    admitter = admitting(Rate(1, 1.0, 1))
    await admitter.acquire(first := waiter(admitter))
    call(admitter, first)
    waiting = admitted(admitter, waiter(admitter))
    await settled()
    admitter.close()
    await asyncio.sleep(10.0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    admitter.close()
    assert free(admitter)


@virtual_time
async def test_a_grant_is_settled_once():
    admitter = admitting()
    await admitter.acquire(first := waiter(admitter))
    call(admitter, first)
    with pytest.raises(AssertionError):
        call(admitter, first)


async def test_who_has_just_come_goes_however_little_time_it_has_left():
    """Between the offer and the look a real clock moves on: that is no wait."""
    admitter = admitting()
    admitter.gate.health = health = UpstreamHealth(Breaker(BreakerPolicy()), None)
    await admitter.acquire(first := waiter(admitter))
    admitter.mark_written(first, time.perf_counter())
    await asyncio.sleep(0.05)
    now = time.perf_counter()
    admitter.settle(first, Verdict.SUCCESS, Exchange(written_at=now, answered_at=now), healthy=True)
    assert health.min_latency_s > 0.04
    hasty = waiter(admitter)
    hasty.deadline = time.perf_counter() + 0.02
    with pytest.raises(StopIteration):
        admitter.acquire(hasty).send(None)
    assert hasty.granted_at is not None
    call(admitter, hasty)


@virtual_time
async def test_who_waits_for_all_to_come_has_it_on_its_receipt():
    admitter = admitting()
    await admitter.acquire(first := waiter(admitter))
    little = RateInfo("ietf", windows=(RateWindowInfo("default", "requests", 100.0, 5.0, 60.0, None),))
    call(admitter, first, rate_info=little)
    waiting = admitted(admitter, second := waiter(admitter))
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    loop.jump(loop.time() + 0.015)  # a busy loop
    await waiting
    assert second.granted_at == pytest.approx(1000.015)
    assert second.receipt.rate_wait_s == pytest.approx(0.015)
    call(admitter, second)
