"""A copy of a gate shares no mutable state with its original, and one memo keeps together what gates share."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest

from paceline.admission.budget import Budget
from paceline.admission.gate import Gate
from paceline.admission.lane import Lane
from paceline.admission.lane_queue import BatchFlow, LaneQueue, Waiter
from paceline.admission.permit_pool import PermitPool
from paceline.admission.upstream_health import UpstreamHealth
from paceline.model import Priority, Rate, Verdict
from paceline.rate.rate_info import RateInfo, RateWindowInfo
from paceline.rate.window import CopyMemo, RateWindow, TokenHold
from paceline.resilience.adaptive_limit import AdaptiveLimit
from paceline.resilience.breaker import Breaker, BreakerPolicy
from support.gate_simulation import GateSimulation, StrictUpstream

CONTAINERS = (dict, list, set, deque)
READ_ONLY = {"cost", "written_totals", "throttled_receipt"}
"""Attributes whose values are read but never changed through them."""


def busy_gate(sockets: PermitPool, batch_pool: PermitPool, *, declared: bool = True) -> Gate:
    """A gate with all the state there can be: queued, parked, blocked, in flight, paused, and advertised or learned."""
    rate = Rate(20, 1.0, 5)
    simulation = GateSimulation(
        [rate, Rate(1000, 3600.0, 1000)] if declared else [],
        limit=12,
        socket_pool=sockets,
        upstream=StrictUpstream([rate]),
        service_delay=lambda: 0.3,
    )
    gate = simulation.gate
    gate.set_health(UpstreamHealth(Breaker(BreakerPolicy()), AdaptiveLimit(1, 50)), simulation.now)
    if declared:
        info = RateInfo("ietf", windows=(RateWindowInfo("default", "requests", 100.0, 50.0, 30.0, 60.0),))
        simulation.rate_info_for = lambda taken: info
    flows = [
        simulation.open_flow(priority, tenant, lane, pool, key)
        for priority in Priority
        for tenant, lane in (("a", Lane.CLASSIC), ("b", Lane.ADAPTIVE))
        for key, pool in (("first", None), ("second", batch_pool))
    ]
    for _ in range(200):
        for flow in flows:
            simulation.offer(flow)
    simulation.run(until=simulation.now + 3)
    throttled = next(waiter for _, waiter in simulation.granted if not waiter.settled and waiter.lane is Lane.ADAPTIVE)
    gate.settle(throttled, Verdict.THROTTLED, simulation.now, answered_at=simulation.now, retry_after_s=5.0)
    simulation.offer(throttled.flow, receipt=throttled.receipt)  # its retry
    simulation.dispatch()
    return gate


def hold_count(budget: Budget) -> int:
    """Tokens that its calls in flight hold of windows it still has."""
    windows = {*budget.windows, *budget.learned_windows}
    return sum(window in windows for grant in budget.unsettled_grants for window, _ in grant.holds)


def mutable_objects(root: Any) -> dict[int, Any]:
    """Every mutable object of Paceline's, and every container, that is reachable from `root`, by id."""
    found: dict[int, Any] = {}
    pending = [root]
    while pending:
        one = pending.pop()
        if id(one) in found:
            continue
        if isinstance(one, CONTAINERS) or is_mutable_instance(one):
            found[id(one)] = one
        pending.extend(parts_of(one))
    return found


def is_mutable_instance(one: Any) -> bool:
    is_frozen = getattr(getattr(type(one), "__struct_config__", None), "frozen", False)
    is_frozen = is_frozen or getattr(getattr(type(one), "__dataclass_params__", None), "frozen", False)
    return type(one).__module__.startswith("paceline.") and not isinstance(one, Enum) and not is_frozen


def parts_of(one: Any) -> Iterator[Any]:
    if isinstance(one, dict):
        yield from one.keys()
        yield from one.values()
    elif isinstance(one, list | set | frozenset | deque | tuple):
        yield from one
    elif type(one).__module__.startswith("paceline."):
        for cls in type(one).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            yield from (getattr(one, name, None) for name in slots if name not in READ_ONLY)
        yield from getattr(one, "__dict__", {}).values()


@pytest.mark.parametrize("declared", [True, False], ids=["declared and advertised", "learned"])
def test_a_copy_shares_no_state_with_its_original(declared: bool):
    gate = busy_gate(PermitPool(50), PermitPool(3, Rate(10, 1.0, 2)), declared=declared)
    memo: CopyMemo = {}
    clone = gate.copy(memo, [], lambda: None)
    for lane_queue in gate.budgets.iter_lane_queues():
        for flow in lane_queue.flows:
            memo[flow].waiters.update({waiter.copy(memo): None for waiter in flow.waiters})
    originals, copies = mutable_objects(gate), mutable_objects(clone)
    assert [one for key, one in originals.items() if key in copies] == []
    kinds = Counter(type(one) for one in originals.values())
    assert kinds == Counter(type(one) for one in copies.values())
    assert {BatchFlow, Budget, TokenHold, LaneQueue, PermitPool, RateWindow, Waiter, AdaptiveLimit} <= set(kinds)
    for budget in gate.budgets:
        [copied] = [each for each in clone.budgets if each.key == budget.key]
        assert hold_count(copied) == hold_count(budget) > 0
        assert (budget.learner.window is None) is declared
    assert gate.budgets.paused_until > 100.0


def test_two_gates_copied_together_share_their_pools_as_the_originals_do():
    sockets, batch_pool = PermitPool(50), PermitPool(3, Rate(10, 1.0, 2))
    gates = [busy_gate(sockets, batch_pool) for _ in range(2)]
    memo: CopyMemo = {}
    clones = [gate.copy(memo, [], lambda: None) for gate in gates]
    for pool in (sockets, batch_pool):
        copies = [
            one
            for gate in clones
            for one in mutable_objects(gate).values()
            if isinstance(one, PermitPool) and one.limit == pool.limit
        ]
        assert len(copies) == 2
        assert copies[0] is copies[1] is memo[pool] is not pool


@pytest.mark.parametrize("lane", Lane)
def test_a_copied_queue_refers_to_the_copied_budget_and_to_the_copies_of_both_lanes(lane: Lane):
    gate = busy_gate(PermitPool(50), PermitPool(3))
    memo: CopyMemo = {}
    clone = gate.copy(memo, [], lambda: None)
    for original, copied in zip(gate.budgets.iter_lane_queues(), clone.budgets.iter_lane_queues(), strict=True):
        assert memo[original] is copied
        assert copied.lanes[lane].lane is lane
        assert copied.lanes[lane] is memo[original.lanes[lane]]
        assert copied.budget is memo[original.budget]
        assert {flow.lane_queue for flow in copied.flows} <= {copied}


def test_the_retry_of_a_throttled_item_is_known_as_such_in_the_copy():
    gate = busy_gate(PermitPool(50), PermitPool(3, Rate(10, 1.0, 2)))
    memo: CopyMemo = {}
    gate.copy(memo, [], lambda: None)
    [retry] = [
        waiter
        for waiter in gate.budgets.iter_waiters()
        if waiter.receipt is waiter.flow.lane_queue.budget.throttle_pause.throttled_receipt
    ]
    clone = retry.copy(memo)
    assert clone.receipt is not retry.receipt
    assert clone.receipt is clone.flow.lane_queue.budget.throttle_pause.throttled_receipt
    assert retry.receipt is retry.flow.lane_queue.budget.throttle_pause.throttled_receipt
