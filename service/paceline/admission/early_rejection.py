"""Early rejection: waiters that cannot be served in time are rejected at once, with the seconds they would need.

All times are lower bounds, so that no waiter is rejected that could have been served.
"""

from __future__ import annotations

from collections.abc import Mapping

from paceline.admission.gate import Gate
from paceline.admission.lane import Lane
from paceline.admission.lane_queue import BatchFlow, Waiter
from paceline.model import Cost


def unreachable_wait_s(waiter: Waiter, now: float) -> float | None:
    """Return the seconds that a new waiter would have to wait at least, where that is past its deadline."""
    flow = waiter.flow
    earliest_at = _earliest_possible_at(flow, flow.backlog, waiter.cost, now)
    return earliest_at - now if earliest_at > waiter.deadline else None


def reject_unreachable(gate: Gate, now: float) -> list[tuple[Waiter, float]]:
    """After a pause or a retune: withdraw the waiters that cannot meet their deadline; with the wait each needs."""
    rejected: list[tuple[Waiter, float]] = []
    for lane_queue in gate.budgets.iter_lane_queues():
        for flow in lane_queue.flows:
            ahead = dict(flow.backlog)
            for waiter in reversed(flow.waiters):  # from the last, which waits longest
                for unit, amount in waiter.amounts:
                    ahead[unit] -= amount
                earliest_at = _earliest_possible_at(flow, ahead, waiter.cost, now)
                if earliest_at <= waiter.deadline:
                    break
                rejected.append((waiter, earliest_at - now))
    for waiter, _ in rejected:
        gate.withdraw(waiter, now)
    return rejected


def breaker_wait_s(gate: Gate, waiter: Waiter, now: float) -> float | None:
    """Return the seconds until the breaker's next trial, for a new waiter that cannot or will not wait for it."""
    return None if gate.health is None else gate.health.breaker_wait_s(waiter, now)


def reject_breaker_blocked(gate: Gate, now: float) -> list[tuple[Waiter, float]]:
    """After the breaker opened: withdraw waiters that cannot or will not wait for its next trial; with that wait."""
    rejected = [
        (waiter, wait_s)
        for waiter in gate.budgets.iter_waiters()
        if (wait_s := breaker_wait_s(gate, waiter, now)) is not None
    ]
    for waiter, _ in rejected:
        gate.withdraw(waiter, now)
    return rejected


def _earliest_possible_at(flow: BatchFlow, ahead: Mapping[str, float], cost: Cost, now: float) -> float:
    """Return a lower bound of when this cost can be served: pause, windows, and what is ahead in its own batch."""
    budget, earliest_at = flow.lane_queue.budget, now
    if flow.lane is Lane.ADAPTIVE and budget.throttle_pause.throttled_receipt is not None:
        earliest_at = max(earliest_at, budget.throttle_pause.paused_until)
    for window in budget.windows:
        unit = window.rate.unit
        amount = cost.get(unit)
        if amount:
            earliest_at = max(earliest_at, window.earliest_possible_at(ahead.get(unit, 0.0), amount, now))
    if flow.batch_pool is not None:
        earliest_at = max(earliest_at, flow.batch_pool.earliest_possible_at(ahead.get("requests", 0.0), cost, now))
    return earliest_at
