"""What an upstream's health lets through: its breaker and its adaptive limit, fed by every attempt.

They bind the adaptive lane only. Pure: moments are arguments.

What a call's deadline cut off, or its item's own short timeout, says nothing by itself: it may have had no time left,
and a caller in a hurry must not close an upstream to the others. Where the upstream has answered nobody for several
times as long as its good answers take, and the call had the time of the quickest of these, it is a failure: else an
outage in which nothing is answered would go unseen as soon as those who wait have hardly any time left when their turn
comes.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from math import inf

from paceline.admission.lineup import Lane, Waiter
from paceline.model import Priority
from paceline.resilience.adaptive_limit import AdaptiveLimit
from paceline.resilience.breaker import Breaker, BreakerState

_REMEMBERED = 32
_SILENT = 4
"""An upstream is silent when it has answered nobody for so many times as long as its good answers take."""
_SPARE_S = 0.3
"""What a trial has to have left beyond the time a call takes: for a new connection, and a first answer that is slow."""
_MOST_DOUBLED = 4
_EARLY_S = 0.005
"""Event loops may ring that much early."""


class Health:
    """One upstream's breaker, and its adaptive limit unless a limit is declared."""

    def __init__(self, breaker: Breaker, limiter: AdaptiveLimit | None) -> None:
        self.breaker = breaker
        self.limiter = limiter
        self.call_s = 0.0
        """How long its good answers take of late, on average; 0 before the first."""
        self._took_s: deque[float] = deque(maxlen=_REMEMBERED)
        self._answered_at = -inf
        self._cut_off = 0
        """So many trials since it was closed ended at their deadline; each doubles what a trial has to have left."""

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
        enough_s = (self.call_s + _SPARE_S) * 2**self._cut_off
        if until <= now or (flow.priority is not Priority.INTERACTIVE and until + enough_s < waiter.deadline):
            return None
        return until - now

    @property
    def quickest_s(self) -> float:
        """The quickest of the last good answers; 0 before the first."""
        return min(self._took_s, default=0.0)

    def past_hope(self, waiter: Waiter, now: float) -> bool:
        """See `past_hope`."""
        return waiter.deadline - now < self.call_s and past_hope(waiter, self.quickest_s, now)

    def granted(self, waiter: Waiter, in_flight: int, now: float) -> None:
        """It goes, as one of so many in flight."""
        waiter.ticket = self.breaker.granted(now)
        waiter.among = in_flight

    def settled(
        self, waiter: Waiter, healthy: bool | None, timed_out: bool, answered_at: float | None, now: float
    ) -> bool:
        """Learn from what became of it. True where that opened the breaker, or was a trial that left it open."""
        breaker, written_at = self.breaker, waiter.written_at
        if healthy and waiter.granted_at is not None:
            took_s = now - waiter.granted_at
            self.call_s += (took_s - self.call_s) / _REMEMBERED if self.call_s else took_s
            self._took_s.append(took_s)
        was_closed = breaker.state(now) is BreakerState.CLOSED
        if answered_at is not None:
            self._answered_at = now
        elif healthy is None and written_at is not None and (timed_out or waiter.deadline <= now + _EARLY_S):
            if was_closed:
                silent = now - self._answered_at > _SILENT * self.call_s > 0
                healthy = False if silent and now - written_at >= self.quickest_s else None
            elif breaker.is_trial(waiter.ticket) and not timed_out:
                self._cut_off = min(self._cut_off + 1, _MOST_DOUBLED)
        breaker.settled(healthy, waiter.ticket, now)
        if healthy:
            self._cut_off = 0
        if self.limiter is not None and written_at is not None:
            if healthy and answered_at is not None:
                self.limiter.sample(now - written_at, waiter.among, now)
            elif timed_out and healthy is False:
                self.limiter.sample(now - written_at, waiter.among, now, dropped=True)
        if breaker.state(now) is BreakerState.CLOSED:
            return False
        return was_closed or (breaker.is_trial(waiter.ticket) and not breaker.allows(now))

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
            fork = copy(self)
            fork.breaker, fork._took_s = self.breaker.fork(), copy(self._took_s)
            fork.limiter = limiter and limiter.fork()
            return fork
        return inf if limiter is None else limiter.level

    def reset(self) -> None:
        """Forget what was learned."""
        self.breaker.reset()
        self.call_s = 0.0
        self._took_s.clear()
        self._answered_at = -inf
        self._cut_off = 0
        if self.limiter is not None:
            self.limiter.reset()


def past_hope(waiter: Waiter, quickest_s: float, now: float) -> bool:
    """It has waited until it has less time left than the quickest of the last good answers took.

    Who has not waited is never past hope: else an upstream that has become quicker would not be seen.
    """
    return (
        waiter.deadline - now < quickest_s > 0 and waiter.offered_at < now and waiter.flow.lineup.lane is Lane.ADAPTIVE
    )
