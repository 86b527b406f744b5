"""The gate grants every permit and token once, to the right waiter: in simulated time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.admission.early_rejection import reject_unreachable, unreachable_wait_s
from paceline.admission.lane import Lane
from paceline.admission.lane_queue import Waiter
from paceline.admission.permit_pool import PermitPool
from paceline.model import Priority, Rate, Receipt, Verdict
from support.gate_simulation import GateSimulation
from support.hypothesis_profiles import examples


@examples(12)
@given(seed=st.integers(0, 2**20))
def test_no_permit_and_no_token_is_lost_over_random_offers_withdrawals_and_settlements(seed: int) -> None:
    draw = random.Random(seed)
    sockets = PermitPool(12)
    simulation = GateSimulation([Rate(50, 1.0, 50), Rate(300, 10.0, 300)], limit=7, socket_pool=sockets)
    own = PermitPool(3, Rate(20, 1.0, 5))
    flows = [
        simulation.open_flow(draw.choice(list(Priority)), draw.choice("ab"), draw.choice(list(Lane))) for _ in range(4)
    ]
    flows.append(simulation.open_flow(batch_pool=own))
    gate = simulation.gate
    waiting: list[Waiter] = []
    granted: list[Waiter] = []
    now = simulation.now
    for _ in range(600):
        now += draw.choice([0.0, 0.001, 0.03])
        act = draw.random()
        if act < 0.45:
            waiter = Waiter(draw.choice(flows), {"requests": float(draw.choice([1, 1, 2]))}, Receipt())
            gate.offer(waiter, now)
            waiting.append(waiter)
        elif act < 0.6 and waiting:
            gate.withdraw(waiting.pop(draw.randrange(len(waiting))), now)
        elif granted:
            waiter = granted.pop(draw.randrange(len(granted)))
            answered = waiter.written_at is not None and draw.random() < 0.8
            verdict = draw.choice([Verdict.SUCCESS, Verdict.TRANSIENT, Verdict.IGNORED, Verdict.PERMANENT])
            gate.settle(waiter, verdict, now, answered_at=now if answered else None)
        for waiter in gate.dispatch(now)[0]:
            waiting.remove(waiter)
            granted.append(waiter)
            if draw.random() < 0.8:
                gate.mark_written(waiter, now)
        assert gate.in_flight == len(granted) == sockets.in_flight <= 7
        assert gate.queued == len(waiting)
        assert own.in_flight == sum(waiter.flow.batch_pool is own for waiter in granted) <= 3
    for waiter in waiting:
        gate.withdraw(waiter, now)
    for waiter in granted:
        gate.settle(waiter, Verdict.IGNORED, now)
    now += 30
    assert gate.in_flight == gate.queued == sockets.in_flight == own.in_flight == 0
    assert [window.remaining(now, gate.budgets.transit_s) for window in gate.budgets.snapshot()[0].windows] == [50, 300]
    assert gate.is_idle(now)


@pytest.mark.parametrize("limits", [{"limit": 4}, {"adaptive_limit": 4}])
def test_the_cap_is_hard_and_always_used(limits: dict[str, float]) -> None:
    simulation = GateSimulation([], service_delay=lambda: 0.1, **limits)
    flow = simulation.open_flow()
    for _ in range(40):
        simulation.offer(flow)
    simulation.run()
    assert simulation.max_in_flight == 4
    assert simulation.now == pytest.approx(100.0 + 1.0)


def test_a_bulk_batch_delays_an_interactive_call_by_at_most_one_token_interval() -> None:
    simulation = GateSimulation([Rate(50, 1.0, 1)])
    bulk = simulation.open_flow(Priority.BULK)
    for _ in range(10_000):
        simulation.offer(bulk)
    simulation.run(until=simulation.now + 3.3333)
    asked_at = simulation.now
    waiter = simulation.offer(simulation.open_flow(Priority.INTERACTIVE, "other"))
    simulation.run(until=simulation.now + 1)
    assert waiter.granted_at is not None
    assert waiter.granted_at - asked_at <= 1 / 50 + 1e-9


def test_classes_share_a_hundred_to_ten_to_one() -> None:
    simulation = GateSimulation([Rate(1000, 1.0, 1)])
    flows = {priority: simulation.open_flow(priority) for priority in Priority}
    for flow in flows.values():
        for _ in range(3_000):
            simulation.offer(flow)
    simulation.run(until=simulation.now + 1.11)
    shares = {priority: sum(w.flow is flow for _, w in simulation.granted) for priority, flow in flows.items()}
    assert shares[Priority.INTERACTIVE] / shares[Priority.NORMAL] == pytest.approx(10, rel=0.1)
    assert shares[Priority.NORMAL] / shares[Priority.BULK] == pytest.approx(10, rel=0.2)


def test_two_tenants_and_their_batches_get_equal_shares() -> None:
    simulation = GateSimulation([Rate(100, 1.0, 1)])
    one = simulation.open_flow(tenant="one")
    many = [simulation.open_flow(tenant="many") for _ in range(3)]
    for flow in [one, *many]:
        for _ in range(500):
            simulation.offer(flow)
    simulation.run(until=simulation.now + 6)
    served = [sum(w.flow is flow for _, w in simulation.granted) for flow in [one, *many]]
    assert served[0] == pytest.approx(sum(served[1:]), abs=1)
    assert max(served[1:]) - min(served[1:]) <= 1


def test_within_a_batch_first_come_is_first_served() -> None:
    simulation = GateSimulation([Rate(10, 1.0, 3)])
    flow = simulation.open_flow()
    waiters = [simulation.offer(flow) for _ in range(30)]
    simulation.run()
    assert [waiter for _, waiter in simulation.granted] == waiters


def test_the_head_is_not_skipped_for_a_cheaper_waiter_behind_it() -> None:
    simulation = GateSimulation([Rate(10, 1.0, 10)])
    flow = simulation.open_flow()
    simulation.offer(flow, {"requests": 5.0})
    dear = simulation.offer(flow, {"requests": 8.0})
    cheap = simulation.offer(flow, {"requests": 1.0})
    simulation.run()
    assert [waiter for _, waiter in simulation.granted][1:] == [dear, cheap]


def test_bulk_leaves_one_permit_in_ten_to_the_others() -> None:
    simulation = GateSimulation([], limit=20, service_delay=lambda: 60.0)
    bulk = simulation.open_flow(Priority.BULK)
    for _ in range(50):
        simulation.offer(bulk)
    assert simulation.gate.in_flight == 18
    assert simulation.offer(simulation.open_flow(Priority.INTERACTIVE)).granted_at == simulation.now


def test_a_batch_at_its_own_cap_holds_nobody_else_back() -> None:
    simulation = GateSimulation([], limit=10, service_delay=lambda: 1.0)
    own = PermitPool(2)
    capped, free = simulation.open_flow(batch_pool=own), simulation.open_flow(tenant="free")
    first = [simulation.offer(capped) for _ in range(6)]
    others = [simulation.offer(free) for _ in range(5)]
    assert sum(w.granted_at is not None for w in first) == 2
    assert all(w.granted_at is not None for w in others)
    simulation.run()
    assert own.in_flight == 0
    assert simulation.now == pytest.approx(103.0)


def test_a_batch_keeps_its_own_rate_under_adaptive() -> None:
    simulation = GateSimulation([], limit=100)
    flow = simulation.open_flow(batch_pool=PermitPool(rate=Rate(20, 1.0, 1)))
    for _ in range(101):
        simulation.offer(flow)
    simulation.run()
    assert simulation.granted[-1][0] - simulation.granted[0][0] == pytest.approx(5.0, rel=0.02)


def test_waits_are_put_down_to_what_held_the_item_and_add_up() -> None:
    simulation = GateSimulation([Rate(10, 1.0, 1)], limit=3, service_delay=lambda: 0.5)
    flow = simulation.open_flow()
    waiters = [simulation.offer(flow) for _ in range(30)]
    simulation.run()
    for waiter in waiters:
        receipt = waiter.receipt
        assert waiter.granted_at is not None
        waited = receipt.rate_wait_s + receipt.queue_s + receipt.pause_s
        assert waited == pytest.approx(waiter.granted_at - receipt.ready_at, abs=1e-9)
    assert waiters[-1].receipt.queue_s > waiters[-1].receipt.rate_wait_s > 0


@examples(12)
@given(
    rate=st.builds(Rate, st.integers(2, 20), st.sampled_from([0.5, 2.0]), st.integers(1, 2)),
    limit=st.sampled_from([2, 5, float("inf")]),
    seed=st.integers(0, 2**16),
)
def test_waits_add_up_however_late_calls_are_written(rate: Rate, limit: float, seed: int) -> None:
    draw = random.Random(seed)
    simulation = GateSimulation(
        [rate], limit=limit, write_delay=lambda: draw.uniform(0, 0.4), service_delay=lambda: draw.uniform(0, 0.5)
    )
    flows = [simulation.open_flow(lane=lane, key=key) for lane in Lane for key in "ab"]
    waiters: list[Waiter] = []
    for _ in range(60):
        simulation.schedule(
            simulation.now + draw.uniform(0, 3.0), lambda: waiters.append(simulation.offer(draw.choice(flows)))
        )
    simulation.schedule(simulation.now + 1.0, lambda: setattr(simulation.gate, "paused", True) or simulation.dispatch())
    simulation.schedule(
        simulation.now + 1.7, lambda: setattr(simulation.gate, "paused", False) or simulation.dispatch()
    )
    simulation.run()
    assert len(waiters) == 60
    for waiter in waiters:
        receipt = waiter.receipt
        assert waiter.granted_at is not None
        waited = receipt.rate_wait_s + receipt.queue_s + receipt.pause_s
        assert waited == pytest.approx(waiter.granted_at - receipt.ready_at, abs=1e-6)


def test_a_batch_at_its_own_cap_waits_for_concurrency_whatever_the_others_wait_for() -> None:
    simulation = GateSimulation([Rate(10, 1.0, 1)], service_delay=lambda: 2.0)
    capped, free = simulation.open_flow(batch_pool=PermitPool(1)), simulation.open_flow(tenant="free")
    simulation.offer(capped)
    waiter = simulation.offer(capped)
    for _ in range(40):
        simulation.offer(free)
    simulation.run()
    assert waiter.receipt.queue_s == pytest.approx(2.1, abs=0.11)
    total = waiter.receipt.queue_s + waiter.receipt.rate_wait_s
    assert total == pytest.approx((waiter.granted_at or 0) - waiter.receipt.ready_at)


def test_the_operators_pause_holds_everybody_and_is_lifted() -> None:
    simulation = GateSimulation([])
    simulation.gate.paused = True
    waiters = [simulation.offer(simulation.open_flow(lane=lane)) for lane in Lane]
    assert all(waiter.granted_at is None for waiter in waiters)
    simulation.run(until=simulation.now + 5)
    simulation.gate.paused = False
    simulation.dispatch()
    assert all(waiter.granted_at == simulation.now for waiter in waiters)
    assert [waiter.receipt.pause_s for waiter in waiters] == [5.0, 5.0]


def test_a_cancelled_grant_that_was_never_written_gives_its_tokens_back() -> None:
    simulation = GateSimulation([Rate(2, 10.0, 2)], write_delay=lambda: 1000.0)
    flow = simulation.open_flow()
    first, second, third = (simulation.offer(flow) for _ in range(3))
    assert third.granted_at is None
    simulation.gate.settle(second, Verdict.IGNORED, simulation.now)
    simulation.dispatch()
    assert third.granted_at == simulation.now
    simulation.gate.settle(first, Verdict.IGNORED, simulation.now)


def test_a_cancelled_grant_in_flight_keeps_its_tokens_until_the_upstream_has_forgotten_it() -> None:
    simulation = GateSimulation([Rate(1, 10.0, 1)], service_delay=lambda: 1000.0)
    flow = simulation.open_flow()
    first = simulation.offer(flow)
    simulation.run(until=simulation.now + 0.01)
    simulation.gate.settle(first, Verdict.IGNORED, simulation.now)
    second = simulation.offer(flow)
    assert second.granted_at is None
    simulation.run(until=simulation.now + 11)
    assert second.granted_at == pytest.approx(110.05, abs=0.02)


def test_an_answer_that_brings_a_token_back_sooner_lets_the_next_go_sooner() -> None:
    simulation = GateSimulation([Rate(1, 1.0, 1)], service_delay=lambda: 0.01)
    flow = simulation.open_flow()
    simulation.offer(flow)
    second = simulation.offer(flow)
    simulation.run()
    assert second.granted_at == pytest.approx(101.011, abs=0.001)  # not a second and the time to be counted


def test_a_permit_that_lets_bulk_go_is_not_wasted_on_a_dearer_head() -> None:
    simulation = GateSimulation([Rate(10, 10.0, 10)], limit=3, service_delay=lambda: 1.0)
    simulation.offer(simulation.open_flow(Priority.BULK, key="another"))
    normal = simulation.open_flow()
    simulation.offer(normal, {"requests": 5.0})
    dear = simulation.offer(normal, {"requests": 8.0})
    cheap = simulation.offer(simulation.open_flow(Priority.BULK))
    assert (dear.granted_at, cheap.granted_at) == (None, None)
    simulation.run()
    assert cheap.granted_at == 101.0
    assert dear.granted_at is not None
    assert dear.granted_at > 109.0


def test_a_new_limit_keeps_what_was_counted() -> None:
    simulation = GateSimulation([Rate(10, 1.0, 10)])
    flow = simulation.open_flow()
    for _ in range(10):
        simulation.offer(flow)
    simulation.run(until=simulation.now + 0.1)
    simulation.gate.retune([Rate(15, 1.0, 15), Rate(100, 60.0, 100)], simulation.now)
    for _ in range(10):
        simulation.offer(flow)
    assert [
        round(window.remaining(simulation.now, 0.05)) for window in simulation.gate.budgets.snapshot()[0].windows
    ] == [0, 85]


def test_a_retune_refuses_those_that_can_never_be_paid_any_more() -> None:
    simulation = GateSimulation([Rate(10, 1.0, 10)])
    flow = simulation.open_flow()
    simulation.offer(flow, {"requests": 10.0})
    dear, cheap = simulation.offer(flow, {"requests": 9.0}), simulation.offer(flow)
    assert simulation.gate.retune([Rate(5, 1.0, 5)], simulation.now) == [dear]
    simulation.dispatch()
    simulation.run()
    assert cheap.granted_at is not None
    assert dear.granted_at is None
    assert simulation.gate.queued == 0


def test_offers_and_withdrawals_behind_a_blocked_head_leave_nothing_behind() -> None:
    simulation = GateSimulation([])
    simulation.gate.paused = True
    simulation.offer(simulation.open_flow())
    for _ in range(2_000):
        simulation.withdraw(simulation.offer(simulation.open_flow(tenant="passing")))
    [node] = [
        node
        for lane_queue in simulation.gate.budgets.iter_lane_queues()
        for node in lane_queue.classes.values()
        if node.active_children
    ]
    assert len(node._heap) < 200
    assert simulation.gate.queued == 1


def test_who_cannot_be_served_in_time_is_told_so_at_once_and_nobody_else() -> None:
    simulation = GateSimulation([Rate(10, 1.0, 1)], limit=100)
    flow = simulation.open_flow()
    told, queued = [], []
    for _ in range(200):
        waiter = Waiter(flow, {"requests": 1.0}, Receipt(), deadline=simulation.now + 5.0)
        needed_s = unreachable_wait_s(waiter, simulation.now)
        if needed_s is None:
            queued.append(waiter)
            simulation.gate.offer(waiter, simulation.now)
        else:
            told.append(needed_s)
    simulation.dispatch()
    simulation.run(until=simulation.now + 5.0)
    served = sum(waiter.granted_at is not None for waiter in queued)
    assert served >= 50  # what could be served was
    assert len(queued) - served <= 2
    assert min(told) > 5.0


def test_a_pause_gives_up_those_it_puts_out_of_reach() -> None:
    simulation = GateSimulation([Rate(10, 1.0, 1)], write_delay=lambda: 1e9)
    flow = simulation.open_flow()
    first = simulation.offer(flow)
    soon = Waiter(flow, {"requests": 1.0}, Receipt(), deadline=simulation.now + 5.0)
    late = Waiter(flow, {"requests": 1.0}, Receipt(), deadline=simulation.now + 60.0)
    for waiter in (late, soon):
        simulation.gate.offer(waiter, simulation.now)
    simulation.gate.mark_written(first, simulation.now)
    simulation.gate.settle(first, Verdict.THROTTLED, simulation.now, answered_at=simulation.now, retry_after_s=20.0)
    given_up = reject_unreachable(simulation.gate, simulation.now)
    assert [waiter for waiter, _ in given_up] == [soon]
    assert given_up[0][1] == pytest.approx(20.0, abs=0.2)
    assert simulation.gate.queued == 1


@examples(15)
@given(
    limit=st.integers(1, 20),
    burst=st.integers(1, 20),
    items=st.lists(st.tuples(st.integers(1, 4), st.floats(0.1, 8.0)), min_size=1, max_size=60),
)
def test_what_could_have_been_served_is_never_refused(limit: int, burst: int, items: list[tuple[int, float]]) -> None:
    """The bound is a lower bound: without any delay, no waiter that was rejected would have been granted in time."""
    rate = Rate(limit, 1.0, min(burst, limit))
    payable = [(cost, deadline) for cost, deadline in items if cost <= limit]
    simulation = GateSimulation([rate])
    flow = simulation.open_flow()
    refused: list[tuple[Waiter, float]] = []
    for cost, deadline_s in payable:
        waiter = Waiter(flow, {"requests": float(cost)}, Receipt(), deadline=simulation.now + deadline_s)
        if unreachable_wait_s(waiter, simulation.now) is not None:
            refused.append((waiter, simulation.now + deadline_s))
        simulation.gate.offer(waiter, simulation.now)
    simulation.dispatch()
    simulation.run()
    for waiter, deadline in refused:
        assert waiter.granted_at is not None
        assert waiter.granted_at > deadline - 1e-6
