"""A throttle pauses the whole budget, one probe ends the pause, and an item-specific throttle pauses no other item."""

from __future__ import annotations

import pytest

from paceline.admission.lane import Lane
from paceline.admission.lane_queue import Waiter
from paceline.model import Receipt, Verdict
from support.gate_simulation import GateSimulation


def throttle(simulation: GateSimulation, waiter: Waiter, retry_after_s: float | None = None) -> float | None:
    if waiter.written_at is None:
        simulation.gate.mark_written(waiter, simulation.now)
    paused_s = simulation.gate.settle(
        waiter, Verdict.THROTTLED, simulation.now, answered_at=simulation.now, retry_after_s=retry_after_s
    )
    simulation.dispatch()
    return paused_s


def succeed(simulation: GateSimulation, waiter: Waiter) -> None:
    if waiter.written_at is None:
        simulation.gate.mark_written(waiter, simulation.now)
    simulation.gate.settle(waiter, Verdict.SUCCESS, simulation.now, answered_at=simulation.now)
    simulation.dispatch()


def quiet() -> GateSimulation:
    """A simulation whose grants are written and answered by the test alone."""
    return GateSimulation([], write_delay=lambda: 1e9)


def test_the_budget_pauses_for_as_long_as_it_was_told() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    first = simulation.offer(flow)
    assert throttle(simulation, first, 7.0) == 7.0
    waiter = simulation.offer(flow)
    simulation.run(until=106.9)
    assert waiter.granted_at is None
    simulation.run(until=107.1)
    assert waiter.granted_at == 107.0
    assert waiter.receipt.pause_s == pytest.approx(7.0)


def test_no_word_may_pause_longer_than_the_ceiling() -> None:
    simulation = quiet()
    assert throttle(simulation, simulation.offer(simulation.open_flow()), 1e6) == 900.0


def test_one_probe_goes_and_its_success_lets_the_others_go() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    throttle(simulation, simulation.offer(flow), 1.0)
    waiters = [simulation.offer(flow) for _ in range(3)]
    simulation.run(until=101.5)
    assert [waiter.granted_at for waiter in waiters] == [101.0, None, None]
    succeed(simulation, waiters[0])
    assert [waiter.granted_at for waiter in waiters] == [101.0, 101.5, 101.5]


def test_an_unanswered_probe_is_followed_by_the_next_after_a_second() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    throttle(simulation, simulation.offer(flow), 1.0)
    waiters = [simulation.offer(flow) for _ in range(3)]
    simulation.run(until=102.5)
    assert [waiter.granted_at for waiter in waiters] == [101.0, 102.0, None]


def test_a_probe_that_fails_otherwise_lets_the_next_go_at_once() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    throttle(simulation, simulation.offer(flow), 1.0)
    waiters = [simulation.offer(flow) for _ in range(2)]
    simulation.run(until=101.2)
    simulation.gate.settle(waiters[0], Verdict.TRANSIENT, simulation.now)
    simulation.dispatch()
    assert waiters[1].granted_at == 101.2


def test_a_throttle_that_names_no_wait_pauses_a_tenth_of_a_second_doubling_until_a_success() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    pauses = []
    for _ in range(10):
        waiter = simulation.offer(flow)
        simulation.run(until=simulation.now + 30)
        assert waiter.granted_at is not None
        pauses.append(throttle(simulation, waiter))
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20.0, 20.0])
    probe = simulation.offer(flow)
    simulation.run(until=simulation.now + 30)
    succeed(simulation, probe)
    again = simulation.offer(flow)
    assert throttle(simulation, again) == pytest.approx(0.1)


def test_a_burst_that_is_refused_together_doubles_the_pause_once() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    burst = [simulation.offer(flow) for _ in range(20)]
    for waiter in burst:
        simulation.gate.mark_written(waiter, simulation.now)
    for waiter in burst:
        throttle(simulation, waiter)
    assert simulation.gate.budgets.paused_until == pytest.approx(simulation.now + 0.1)


def test_the_probe_is_somebody_else_than_the_throttled_item_where_there_is_one() -> None:
    simulation = quiet()
    hasty, patient = simulation.open_flow(tenant="hasty"), simulation.open_flow(tenant="patient")
    receipt = Receipt()
    throttled = simulation.offer(hasty, receipt=receipt)
    throttle(simulation, throttled, 1.0)
    again = simulation.offer(hasty, receipt=receipt)
    other = simulation.offer(patient)
    simulation.run(until=101.5)
    assert other.granted_at == 101.0
    assert again.granted_at is None


def test_an_item_throttled_again_while_others_succeed_waits_alone() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    receipt = Receipt()
    assert throttle(simulation, simulation.offer(flow, receipt=receipt), 1.0) == 1.0
    other = simulation.offer(flow)
    simulation.run(until=101.5)
    succeed(simulation, other)
    again = simulation.offer(flow, receipt=receipt)
    assert throttle(simulation, again, 5.0) is None
    assert simulation.offer(flow).granted_at == simulation.now


def test_what_was_learned_does_not_bind_the_classic_strategies() -> None:
    simulation = quiet()
    throttle(simulation, simulation.offer(simulation.open_flow(lane=Lane.CLASSIC)), 5.0)
    assert simulation.offer(simulation.open_flow(lane=Lane.CLASSIC)).granted_at == simulation.now
    assert simulation.offer(simulation.open_flow(lane=Lane.ADAPTIVE)).granted_at is None


def test_a_reset_forgets_the_pause() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    throttle(simulation, simulation.offer(flow), 60.0)
    waiter = simulation.offer(flow)
    simulation.gate.reset_learned(simulation.now)
    simulation.dispatch()
    assert waiter.granted_at == simulation.now
