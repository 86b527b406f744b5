"""Who need not wait at a gate, or not any longer: told so at once, with the seconds that would have been needed.

What could have been served is never refused: times are lower bounds.
"""

from __future__ import annotations

from paceline.admission.gate import Gate
from paceline.admission.lane_queue import Waiter


def unreachable_wait_s(waiter: Waiter, now: float) -> float | None:
    """Seconds that a newcomer would have to wait at least, where that is past its deadline."""
    flow = waiter.flow
    earliest_at = flow.lane_queue.budget.earliest_possible_at(flow, flow.backlog, waiter.cost, now)
    return earliest_at - now if earliest_at > waiter.deadline else None


def reject_unreachable(gate: Gate, now: float) -> list[tuple[Waiter, float]]:
    """After a pause or a retune: withdraw who cannot be served in time any more; with the wait each would need."""
    rejected: list[tuple[Waiter, float]] = []
    for budget in gate.budgets:
        for lane_queue in budget.lane_queues:
            for flow in lane_queue.flows:
                ahead = dict(flow.backlog)
                for waiter in reversed(flow.waiters):  # from the last: who is behind waits longest
                    for unit, amount in waiter.amounts:
                        ahead[unit] -= amount
                    earliest_at = budget.earliest_possible_at(flow, ahead, waiter.cost, now)
                    if earliest_at <= waiter.deadline:
                        break
                    rejected.append((waiter, earliest_at - now))
    for waiter, _ in rejected:
        gate.withdraw(waiter, now)
    return rejected


def breaker_wait_s(gate: Gate, waiter: Waiter, now: float) -> float | None:
    """Seconds until the breaker's next trial, for a newcomer that cannot or will not wait for it."""
    return None if gate.health is None else gate.health.breaker_wait_s(waiter, now)


def reject_breaker_blocked(gate: Gate, now: float) -> list[tuple[Waiter, float]]:
    """The breaker is open: withdraw who cannot or will not wait for its next trial; with the wait for it."""
    rejected = [
        (waiter, wait_s)
        for waiter in gate.budgets.iter_waiters()
        if (wait_s := breaker_wait_s(gate, waiter, now)) is not None
    ]
    for waiter, _ in rejected:
        gate.withdraw(waiter, now)
    return rejected
