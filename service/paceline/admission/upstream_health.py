"""The health of an upstream: its circuit breaker and its adaptive limit, which learn from every attempt.

Both bind the adaptive lane only. Pure: moments are arguments.

A call that its deadline or its item's own short timeout ended is no failure as such: it may have had no time left, and
an impatient client must not open the breaker for the others. It counts as a failure where the upstream has answered no
call for several times the latency of its good responses, and the call had the time of the quickest of these. Otherwise
an outage without any response would go unnoticed as soon as waiters have hardly any time left when they are granted.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from math import inf

from paceline.admission.lane import Lane
from paceline.admission.lane_queue import Waiter
from paceline.model import Priority
from paceline.resilience.adaptive_limit import AdaptiveLimit
from paceline.resilience.breaker import Breaker, BreakerState

_SAMPLES = 32
_SILENCE_FACTOR = 4
"""An upstream is silent when it has answered no call for this many times the latency of its good responses."""
_TRIAL_MARGIN_S = 0.3
"""Seconds that a trial needs beyond the latency of a call: for a new connection and a slow first response."""
_MAX_DOUBLINGS = 4
_TIMER_TOLERANCE_S = 0.005
"""Seconds. Timers of event loops may fire that much early."""


class UpstreamHealth:
    """One upstream's breaker, and its adaptive limit unless a limit is declared."""

    def __init__(self, breaker: Breaker, limiter: AdaptiveLimit | None) -> None:
        self.breaker = breaker
        self.limiter = limiter
        self.mean_success_latency_s = 0.0
        """The moving average of the latency of its good responses; 0 before the first."""
        self._success_latencies_s: deque[float] = deque(maxlen=_SAMPLES)
        self._last_answered_at = -inf
        self._trials_timed_out = 0
        """Trials that ended at their deadline since the breaker closed; each doubles the time that a trial needs."""

    @property
    def limit(self) -> float:
        """The maximum of calls of the adaptive lane in flight."""
        return inf if self.limiter is None else self.limiter.limit

    def blocked_until(self, now: float) -> float:
        """Return until when the breaker blocks calls; at or before `now` means that one may go."""
        return -inf if self.breaker.allows_call(now) else self.breaker.next_trial_at(now)

    def breaker_wait_s(self, waiter: Waiter, now: float) -> float | None:
        """Return the seconds to the next trial for a waiter that cannot or will not wait for it; None where it may."""
        if waiter.lane is not Lane.ADAPTIVE:
            return None
        trial_at = self.blocked_until(now)
        required_s = (self.mean_success_latency_s + _TRIAL_MARGIN_S) * 2**self._trials_timed_out
        if trial_at <= now or (waiter.priority is not Priority.INTERACTIVE and trial_at + required_s < waiter.deadline):
            return None
        return trial_at - now

    @property
    def min_latency_s(self) -> float:
        """The lowest latency of the last good responses; 0 before the first."""
        return min(self._success_latencies_s, default=0.0)

    def is_deadline_infeasible(self, waiter: Waiter, now: float) -> bool:
        """See the function `is_deadline_infeasible`."""
        return waiter.deadline - now < self.mean_success_latency_s and is_deadline_infeasible(
            waiter, self.min_latency_s, now
        )

    def on_grant(self, waiter: Waiter, in_flight: int, now: float) -> None:
        """Record a grant, and the calls in flight with it."""
        waiter.breaker_ticket = self.breaker.on_grant(now)
        waiter.in_flight_at_grant = in_flight

    def on_result(
        self, waiter: Waiter, healthy: bool | None, timed_out: bool, answered_at: float | None, now: float
    ) -> bool:
        """Learn from the result of a call. True where it opened the breaker, or was a trial that left it open."""
        breaker, written_at = self.breaker, waiter.written_at
        if healthy and waiter.granted_at is not None:
            latency_s = now - waiter.granted_at
            self.mean_success_latency_s += (
                (latency_s - self.mean_success_latency_s) / _SAMPLES if self.mean_success_latency_s else latency_s
            )
            self._success_latencies_s.append(latency_s)
        was_closed = breaker.state(now) is BreakerState.CLOSED
        if answered_at is not None:
            self._last_answered_at = now
        elif healthy is None and written_at is not None and (timed_out or waiter.deadline <= now + _TIMER_TOLERANCE_S):
            if was_closed:
                is_silent = now - self._last_answered_at > _SILENCE_FACTOR * self.mean_success_latency_s > 0
                healthy = False if is_silent and now - written_at >= self.min_latency_s else None
            elif breaker.is_trial(waiter.breaker_ticket) and not timed_out:
                self._trials_timed_out = min(self._trials_timed_out + 1, _MAX_DOUBLINGS)
        breaker.on_result(healthy, waiter.breaker_ticket, now)
        if healthy:
            self._trials_timed_out = 0
        if self.limiter is not None and written_at is not None:
            if healthy and answered_at is not None:
                self.limiter.sample(now - written_at, waiter.in_flight_at_grant, now)
            elif timed_out and healthy is False:
                self.limiter.sample(now - written_at, waiter.in_flight_at_grant, now, dropped=True)
        if breaker.state(now) is BreakerState.CLOSED:
            return False
        return was_closed or (breaker.is_trial(waiter.breaker_ticket) and not breaker.allows_call(now))

    def retune(self, new_health: UpstreamHealth, now: float) -> None:
        """Take the settings of `new_health` and keep what was learned."""
        self.breaker.retune(new_health.breaker.policy)
        if self.limiter is None or new_health.limiter is None:
            self.limiter = new_health.limiter
        else:
            self.limiter.retune(*new_health.limiter.bounds, now)

    def copy(self) -> UpstreamHealth | float:
        """Copy the health for a simulation, in which every call succeeds and none is slower for the others in flight.

        Returns only the limit where that would change nothing: with the breaker closed, once the limit has stopped
        climbing.
        """
        limiter = self.limiter
        climbing = limiter is not None and limiter.is_climbing
        if climbing or self.breaker.state(0.0) is not BreakerState.CLOSED:
            clone = copy(self)
            clone.breaker, clone._success_latencies_s = self.breaker.copy(), copy(self._success_latencies_s)
            clone.limiter = limiter and limiter.copy()
            return clone
        return inf if limiter is None else limiter.mean_limit

    def reset(self) -> None:
        """Forget what was learned."""
        self.breaker.reset()
        self.mean_success_latency_s = 0.0
        self._success_latencies_s.clear()
        self._last_answered_at = -inf
        self._trials_timed_out = 0
        if self.limiter is not None:
            self.limiter.reset()


def is_deadline_infeasible(waiter: Waiter, min_latency_s: float, now: float) -> bool:
    """Whether a waiter has waited until it has less time left than the quickest of the last good responses took.

    A waiter that has not waited is always feasible: otherwise an upstream that became quicker would go unnoticed.
    """
    return waiter.deadline - now < min_latency_s > 0 and waiter.offered_at < now and waiter.lane is Lane.ADAPTIVE
