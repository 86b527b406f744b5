"""A paused batch: none of it goes, it blocks no other batch, and a forecast assumes that it resumes at once."""

from __future__ import annotations

import asyncio

import pytest

from paceline.admission.lane import Lane
from paceline.admission.permit_pool import PermitPool
from paceline.batch.plan import plan_batch
from paceline.model import Batch, Priority, Rate, Strategy
from support.gate_simulation import GateSimulation
from support.in_memory_upstream import InMemoryUpstream, in_memory_service, is_idle, items
from support.virtual_clock import virtual_time


@pytest.mark.parametrize("lane", Lane)
def test_while_it_is_shut_others_go_and_who_waits_here_waits_for_a_permit(lane: Lane):
    simulation = GateSimulation([Rate(10, 1.0, 1)], limit=2, service_delay=lambda: 0.5)
    own = PermitPool()
    held, free = simulation.open_flow(lane=lane, batch_pool=own), simulation.open_flow(tenant="free", lane=lane)
    first = simulation.offer(held)
    own.pause()
    waiting = [simulation.offer(held) for _ in range(5)]
    others = [simulation.offer(free) for _ in range(30)]
    simulation.run(until=simulation.now + 60)
    assert all(waiter.granted_at is not None for waiter in (first, *others))  # what is in flight goes on
    assert not any(waiter.granted_at for waiter in waiting)
    assert (simulation.gate.in_flight, own.in_flight, simulation.gate.queued) == (0, 0, 5)
    own.resume()
    simulation.run()
    assert all(waiter.granted_at is not None for waiter in waiting)
    for waiter in waiting:
        receipt = waiter.receipt
        waited_s = receipt.queue_s + receipt.rate_wait_s + receipt.pause_s
        assert waiter.granted_at is not None
        assert waited_s == pytest.approx(waiter.granted_at - receipt.ready_at)
        assert receipt.queue_s == pytest.approx(60, abs=2)


def test_it_keeps_cap_and_rate_of_its_own_after_it_was_shut():
    simulation = GateSimulation([], limit=50, service_delay=lambda: 0.5)
    own = PermitPool(3, Rate(5, 1.0, 2))
    flow = simulation.open_flow(batch_pool=own)
    own.pause()
    waiters = [simulation.offer(flow) for _ in range(21)]
    simulation.run(until=simulation.now + 10)
    own.resume()
    simulation.run()
    moments = [waiter.granted_at or 0 for waiter in waiters]
    assert simulation.max_in_flight == 3
    for beginning in moments:
        assert sum(beginning <= moment < beginning + 1 for moment in moments) <= 5 + 2
    assert moments[-1] - moments[0] >= (21 - 2) / 5 - 0.01


def test_who_leaves_while_it_is_shut_leaves_nothing_behind():
    simulation = GateSimulation([], limit=1)
    own = PermitPool()
    flow = simulation.open_flow(Priority.BULK, batch_pool=own)
    own.pause()
    waiters = [simulation.offer(flow) for _ in range(3)]
    for waiter in waiters:
        simulation.withdraw(waiter)
    own.resume()
    simulation.run()
    assert (simulation.gate.queued, simulation.gate.in_flight, simulation.granted) == (0, 0, [])
    assert simulation.offer(flow).granted_at == simulation.now


@pytest.mark.parametrize("strategy", Strategy)
@virtual_time
async def test_a_run_that_is_held_sends_nothing_new_and_then_all(strategy: Strategy):
    own = {"rate": Rate(64, 1.0, 8)} if strategy is Strategy.TOKEN_BUCKET else {}
    upstream = InMemoryUpstream(after_s=0.125)
    with in_memory_service(upstream, concurrency={"limit": 4}) as service:
        batch = Batch(items(20), strategy=strategy, deadline_s=300.0, **own)
        run = service.runner.open_run(batch, pausable=True)
        running = asyncio.create_task(service.runner.run(batch, lambda _: None, run))
        await asyncio.sleep(0.3)
        run.pause()
        sent = len(upstream.sent)
        await asyncio.sleep(100)
        assert len(upstream.sent) == sent < 20
        assert upstream.in_flight == 0
        run.resume()
        assert (await running).succeeded == 20
        assert is_idle(service)


@virtual_time
async def test_a_plan_takes_a_batch_that_is_held_to_go_on_at_once():
    upstream = InMemoryUpstream(after_s=0.1)
    with in_memory_service(upstream, concurrency={"limit": 4}) as service:
        batch, later = Batch(items(400), deadline_s=300.0), Batch(items(40))
        run = service.runner.open_run(batch, pausable=True)
        running = asyncio.create_task(service.runner.run(batch, lambda _: None, run))
        await asyncio.sleep(0.05)
        run.pause()
        await asyncio.sleep(10)
        plan = await plan_batch(service.registry, later)
        assert plan.finish_in_ms is not None
        assert plan.finish_in_ms == pytest.approx(2000, abs=200)  # alone it would be half of it
        run.resume()
        await running
