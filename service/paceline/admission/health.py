"""What an upstream's health lets through: its breaker and its adaptive limit, fed by every attempt.

They bind the adaptive lane only. Pure: moments are arguments.
"""

from __future__ import annotations

from math import inf

from paceline.admission.lineup import Lane, Waiter
from paceline.model import Priority
from paceline.resilience.adaptive_limit import AdaptiveLimit
from paceline.resilience.breaker import Breaker, BreakerState


class Health:
    """One upstream's breaker, and its adaptive limit unless a limit is declared."""

    def __init__(self, breaker: Breaker, limiter: AdaptiveLimit | None) -> None:
        self.breaker = breaker
        self.limiter = limiter

    @property
    def limit(self) -> float:
        """Calls of the adaptive lane in flight."""
        return inf if self.limiter is None else self.limiter.limit

    def closed_until(self, now: float) -> float:
        """When the breaker lets the next call go; at or before `now` means that one may."""
        return -inf if self.breaker.allows(now) else self.breaker.next_trial_at(now)

    def turned_away(self, waiter: Waiter, now: float) -> float | None:
        """Seconds to the next trial, for one that cannot or will not wait for it; None where it may wait or go."""
        flow = waiter.flow
        if flow.lineup.lane is not Lane.ADAPTIVE:
            return None
        until = self.closed_until(now)
        if until <= now or (flow.priority is not Priority.INTERACTIVE and until < waiter.deadline):
            return None
        return until - now

    def granted(self, waiter: Waiter, in_flight: int, now: float) -> None:
        """It goes, as one of so many in flight."""
        waiter.ticket = self.breaker.granted(now)
        waiter.among = in_flight

    def settled(
        self, waiter: Waiter, healthy: bool | None, timed_out: bool, answered_at: float | None, now: float
    ) -> bool:
        """Learn from what became of it. True where the breaker is open and those who wait may have to be told."""
        breaker, written_at = self.breaker, waiter.written_at
        was_closed = breaker.state(now) is BreakerState.CLOSED
        breaker.settled(healthy, waiter.ticket, now)
        if self.limiter is not None and written_at is not None:
            if healthy and answered_at is not None:
                self.limiter.sample(answered_at - written_at, waiter.among, now)
            elif timed_out:
                self.limiter.sample(now - written_at, waiter.among, now, dropped=True)
        return breaker.state(now) is not BreakerState.CLOSED and (was_closed or not breaker.allows(now))

    def retune(self, fresh: Health, now: float) -> None:
        """Take the settings of another and keep what was learned."""
        self.breaker.retune(fresh.breaker.policy)
        if self.limiter is None or fresh.limiter is None:
            self.limiter = fresh.limiter
        else:
            self.limiter.retune(*fresh.limiter.bounds, now)

    def fork(self) -> Health | float:
        """A copy to be run ahead of time by itself, every call a success and none slower for the others in flight.

        Where nothing would change by that, only its limit: under the breaker closed, once the limit has met its knee.
        """
        limiter = self.limiter
        climbing = limiter is not None and limiter.climbing
        if climbing or self.breaker.state(0.0) is not BreakerState.CLOSED:
            return Health(self.breaker.fork(), limiter and limiter.fork())
        return inf if limiter is None else limiter.level

    def reset(self) -> None:
        """Forget what was learned."""
        self.breaker.reset()
        if self.limiter is not None:
            self.limiter.reset()
