"""A throttle pauses the whole budget, one probe ends the pause, and an item with a limit of its own waits alone."""

from __future__ import annotations

import pytest

from paceline.admission.lane import Lane
from paceline.admission.lane_queue import Waiter
from paceline.model import Receipt, Verdict
from support.gate_simulation import GateSimulation


def throttle(world: GateSimulation, waiter: Waiter, retry_after_s: float | None = None) -> float | None:
    if waiter.written_at is None:
        world.gate.mark_written(waiter, world.now)
    paused_s = world.gate.settle(
        waiter, Verdict.THROTTLED, world.now, answered_at=world.now, retry_after_s=retry_after_s
    )
    world.dispatch()
    return paused_s


def succeed(world: GateSimulation, waiter: Waiter) -> None:
    if waiter.written_at is None:
        world.gate.mark_written(waiter, world.now)
    world.gate.settle(waiter, Verdict.SUCCESS, world.now, answered_at=world.now)
    world.dispatch()


def quiet() -> GateSimulation:
    """A world whose grants are written and answered by the test alone."""
    return GateSimulation([], write_delay=lambda: 1e9)


def test_the_budget_pauses_for_as_long_as_it_was_told() -> None:
    world = quiet()
    flow = world.open_flow()
    first = world.offer(flow)
    assert throttle(world, first, 7.0) == 7.0
    waiter = world.offer(flow)
    world.run(until=106.9)
    assert waiter.granted_at is None
    world.run(until=107.1)
    assert waiter.granted_at == 107.0
    assert waiter.receipt.pause_s == pytest.approx(7.0)


def test_no_word_may_pause_longer_than_the_ceiling() -> None:
    world = quiet()
    assert throttle(world, world.offer(world.open_flow()), 1e6) == 900.0


def test_one_probe_goes_and_its_success_lets_the_others_go() -> None:
    world = quiet()
    flow = world.open_flow()
    throttle(world, world.offer(flow), 1.0)
    waiters = [world.offer(flow) for _ in range(3)]
    world.run(until=101.5)
    assert [waiter.granted_at for waiter in waiters] == [101.0, None, None]
    succeed(world, waiters[0])
    assert [waiter.granted_at for waiter in waiters] == [101.0, 101.5, 101.5]


def test_an_unanswered_probe_is_followed_by_the_next_after_a_second() -> None:
    world = quiet()
    flow = world.open_flow()
    throttle(world, world.offer(flow), 1.0)
    waiters = [world.offer(flow) for _ in range(3)]
    world.run(until=102.5)
    assert [waiter.granted_at for waiter in waiters] == [101.0, 102.0, None]


def test_a_probe_that_fails_otherwise_lets_the_next_go_at_once() -> None:
    world = quiet()
    flow = world.open_flow()
    throttle(world, world.offer(flow), 1.0)
    waiters = [world.offer(flow) for _ in range(2)]
    world.run(until=101.2)
    world.gate.settle(waiters[0], Verdict.TRANSIENT, world.now)
    world.dispatch()
    assert waiters[1].granted_at == 101.2


def test_a_throttle_that_names_no_wait_pauses_a_tenth_of_a_second_doubling_until_a_success() -> None:
    world = quiet()
    flow = world.open_flow()
    pauses = []
    for _ in range(10):
        waiter = world.offer(flow)
        world.run(until=world.now + 30)
        assert waiter.granted_at is not None
        pauses.append(throttle(world, waiter))
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20.0, 20.0])
    probe = world.offer(flow)
    world.run(until=world.now + 30)
    succeed(world, probe)
    again = world.offer(flow)
    assert throttle(world, again) == pytest.approx(0.1)


def test_a_burst_that_is_refused_together_doubles_the_pause_once() -> None:
    world = quiet()
    flow = world.open_flow()
    burst = [world.offer(flow) for _ in range(20)]
    for waiter in burst:
        world.gate.mark_written(waiter, world.now)
    for waiter in burst:
        throttle(world, waiter)
    assert world.gate.budgets.paused_until == pytest.approx(world.now + 0.1)


def test_the_probe_is_somebody_else_than_the_throttled_item_where_there_is_one() -> None:
    world = quiet()
    hasty, patient = world.open_flow(tenant="hasty"), world.open_flow(tenant="patient")
    receipt = Receipt()
    throttled = world.offer(hasty, receipt=receipt)
    throttle(world, throttled, 1.0)
    again = world.offer(hasty, receipt=receipt)
    other = world.offer(patient)
    world.run(until=101.5)
    assert other.granted_at == 101.0
    assert again.granted_at is None


def test_an_item_throttled_again_while_others_succeed_waits_alone() -> None:
    world = quiet()
    flow = world.open_flow()
    receipt = Receipt()
    assert throttle(world, world.offer(flow, receipt=receipt), 1.0) == 1.0
    other = world.offer(flow)
    world.run(until=101.5)
    succeed(world, other)
    again = world.offer(flow, receipt=receipt)
    assert throttle(world, again, 5.0) is None
    assert world.offer(flow).granted_at == world.now


def test_what_was_learned_does_not_bind_the_classic_strategies() -> None:
    world = quiet()
    throttle(world, world.offer(world.open_flow(lane=Lane.CLASSIC)), 5.0)
    assert world.offer(world.open_flow(lane=Lane.CLASSIC)).granted_at == world.now
    assert world.offer(world.open_flow(lane=Lane.ADAPTIVE)).granted_at is None


def test_a_reset_forgets_the_pause() -> None:
    world = quiet()
    flow = world.open_flow()
    throttle(world, world.offer(flow), 60.0)
    waiter = world.offer(flow)
    world.gate.reset_learned(world.now)
    world.dispatch()
    assert waiter.granted_at == world.now
