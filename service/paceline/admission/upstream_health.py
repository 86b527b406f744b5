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

from paceline.admission.lane_queue import Lane, Waiter
from paceline.model import Priority
from paceline.resilience.adaptive_limit import AdaptiveLimit
from paceline.resilience.breaker import Breaker, BreakerState

_SAMPLES = 32
_SILENCE_FACTOR = 4
"""An upstream is silent when it has answered nobody for so many times as long as its good answers take."""
_TRIAL_MARGIN_S = 0.3
"""What a trial has to have left beyond the time a call takes: for a new connection, and a first answer that is slow."""
_MAX_DOUBLINGS = 4
_TIMER_TOLERANCE_S = 0.005
"""Event loops may ring that much early."""


class UpstreamHealth:
    """One upstream's breaker, and its adaptive limit unless a limit is declared."""

    def __init__(self, breaker: Breaker, limiter: AdaptiveLimit | None) -> None:
        self.breaker = breaker
        self.limiter = limiter
        self.mean_success_latency_s = 0.0
        """How long its good answers take of late, on average; 0 before the first."""
        self._success_latencies_s: deque[float] = deque(maxlen=_SAMPLES)
        self._last_answered_at = -inf
        self._trials_timed_out = 0
        """So many trials since it was closed ended at their deadline; each doubles what a trial has to have left."""

    @property
    def limit(self) -> float:
        """Calls of the adaptive lane in flight."""
        return inf if self.limiter is None else self.limiter.limit

    def blocked_until(self, now: float) -> float:
        """When the breaker lets the next call go; at or before `now` means that one may."""
        return -inf if self.breaker.allows_call(now) else self.breaker.next_trial_at(now)

    def breaker_wait_s(self, waiter: Waiter, now: float) -> float | None:
        """Seconds to the next trial, for one that cannot or will not wait for it; None where it may wait or go."""
        flow = waiter.flow
        if flow.lane_queue.lane is not Lane.ADAPTIVE:
            return None
        trial_at = self.blocked_until(now)
        required_s = (self.mean_success_latency_s + _TRIAL_MARGIN_S) * 2**self._trials_timed_out
        if trial_at <= now or (flow.priority is not Priority.INTERACTIVE and trial_at + required_s < waiter.deadline):
            return None
        return trial_at - now

    @property
    def min_latency_s(self) -> float:
        """The quickest of the last good answers; 0 before the first."""
        return min(self._success_latencies_s, default=0.0)

    def is_deadline_infeasible(self, waiter: Waiter, now: float) -> bool:
        """See `past_hope`."""
        return waiter.deadline - now < self.mean_success_latency_s and is_deadline_infeasible(
            waiter, self.min_latency_s, now
        )

    def on_grant(self, waiter: Waiter, in_flight: int, now: float) -> None:
        """It goes, as one of so many in flight."""
        waiter.breaker_ticket = self.breaker.on_grant(now)
        waiter.in_flight_at_grant = in_flight

    def on_result(
        self, waiter: Waiter, healthy: bool | None, timed_out: bool, answered_at: float | None, now: float
    ) -> bool:
        """Learn from what became of it. True where that opened the breaker, or was a trial that left it open."""
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
        """Take the settings of another and keep what was learned."""
        self.breaker.retune(new_health.breaker.policy)
        if self.limiter is None or new_health.limiter is None:
            self.limiter = new_health.limiter
        else:
            self.limiter.retune(*new_health.limiter.bounds, now)

    def copy(self) -> UpstreamHealth | float:
        """A copy to be run ahead of time by itself, every call a success and none slower for the others in flight.

        Where nothing would change by that, only its limit: under the breaker closed, once the limit has met its knee.
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
    """It has waited until it has less time left than the quickest of the last good answers took.

    Who has not waited is never past hope: else an upstream that has become quicker would not be seen.
    """
    return (
        waiter.deadline - now < min_latency_s > 0
        and waiter.offered_at < now
        and waiter.flow.lane_queue.lane is Lane.ADAPTIVE
    )
