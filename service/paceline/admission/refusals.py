"""Who need not wait at a gate, or not any longer: told so at once, with the seconds that would have been needed.

What could have been served is never refused: times are lower bounds.
"""

from __future__ import annotations

from paceline.admission.gate import Gate
from paceline.admission.lineup import Waiter


def out_of_reach(waiter: Waiter, now: float) -> float | None:
    """Seconds that a newcomer would have to wait at least, where that is past its deadline."""
    flow = waiter.flow
    soonest = flow.lineup.budget.soonest(flow, flow.backlog, waiter.cost, now)
    return soonest - now if soonest > waiter.deadline else None


def give_up(gate: Gate, now: float) -> list[tuple[Waiter, float]]:
    """After a pause or a retune: withdraw who cannot be served in time any more; with the wait each would need."""
    given_up: list[tuple[Waiter, float]] = []
    for budget in gate.budgets:
        for lineup in budget.lineups:
            for flow in lineup.flows:
                ahead = dict(flow.backlog)
                for waiter in reversed(flow.waiters):  # from the last: who is behind waits longest
                    for unit, amount in waiter.amounts:
                        ahead[unit] -= amount
                    soonest = budget.soonest(flow, ahead, waiter.cost, now)
                    if soonest <= waiter.deadline:
                        break
                    given_up.append((waiter, soonest - now))
    for waiter, _ in given_up:
        gate.withdraw(waiter, now)
    return given_up


def turned_away(gate: Gate, waiter: Waiter, now: float) -> float | None:
    """Seconds until the breaker's next trial, for a newcomer that cannot or will not wait for it."""
    return None if gate.health is None else gate.health.turned_away(waiter, now)


def turn_away(gate: Gate, now: float) -> list[tuple[Waiter, float]]:
    """The breaker is open: withdraw who cannot or will not wait for its next trial; with the wait for it."""
    away = [
        (waiter, seconds)
        for waiter in gate.budgets.waiters()
        if (seconds := turned_away(gate, waiter, now)) is not None
    ]
    for waiter, _ in away:
        gate.withdraw(waiter, now)
    return away
