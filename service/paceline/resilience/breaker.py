"""The circuit breaker of one upstream: while the upstream fails, only trials are sent.

Rules:

* closed: settled calls are counted over the last `window_s`; when at least `min_calls` were counted and `ratio` of them
  failed, it opens;
* open: no call is allowed for `open_s`. After that one trial is allowed in each interval; the interval doubles with
  each trial, from `open_s` to `max_open_s`, and jitter only shortens it. At most `trials` are unanswered at once;
* a trial that succeeds closes it and clears the counts. One is enough: more than one, an interval apart, would keep a
  recovered upstream waiting for longer than `max_open_s`. A chance success costs one more round of `min_calls`, and
  opening again within `window_s` of closing continues with the interval it had;
* a trial that fails only lowers the number of unanswered trials; an ignored one is returned: the next is allowed
  `open_s` after it, with the interval from before it;
* results that say nothing about the upstream's health (throttles, cancellations, our own rejections) are ignored; a
  response, a 4xx included, is a success;
* a call counts only in the period in which it was granted: a result from before it opened or closed says nothing about
  the time after. A call that is sent while the breaker is open (not every call is bound by it) does not count, unless a
  trial is due: then it is the trial.

Pure: moments are arguments. Memory is fixed: the window has `_BUCKETS` counters, so it covers `window_s` less up to a
twentieth of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import copy
from enum import StrEnum
from math import inf

from msgspec import Struct

_BUCKETS = 20
_JITTER = (0.7, 0.9)
"""Factors of an interval; below 1, so that the duration of a trial fits in `max_open_s` too."""

UNCOUNTED_TICKET = -1
"""The ticket of a call that does not count."""


class BreakerPolicy(Struct, frozen=True):
    """When a breaker opens, and how it detects recovery."""

    ratio: float = 0.5
    min_calls: int = 20
    window_s: float = 10.0
    open_s: float = 1.0
    max_open_s: float = 5.0
    trials: int = 3


class BreakerState(StrEnum):
    """As the API and the metrics name it."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Decide when a call is allowed, from the results of earlier calls."""

    __slots__ = (
        "_bucket_width_s",
        "_calls",
        "_calls_by_bucket",
        "_closed_at",
        "_current_bucket",
        "_draw_uniform",
        "_failures",
        "_failures_by_bucket",
        "_interval_s",
        "_last_trial_at",
        "_next_trial_at",
        "_period",
        "_trials_in_flight",
        "policy",
    )  # fmt: skip

    def __init__(self, policy: BreakerPolicy, draw_uniform: Callable[[float, float], float] = random.uniform) -> None:
        self.policy = policy
        self._draw_uniform = draw_uniform
        self._period = 0
        """Counts the changes between open and closed, so odd while it is open; a call's ticket is its period."""
        self._closed_at = -inf
        self._next_trial_at = -inf
        """When the next trial is due; -inf while closed."""
        self._last_trial_at = -inf
        self._interval_s = policy.open_s
        self._trials_in_flight = 0
        self._clear_counts()

    @property
    def _is_open(self) -> bool:
        return self._period % 2 == 1

    def allows_call(self, now: float) -> bool:
        """Whether a call that is bound by the breaker is allowed now."""
        return self._next_trial_at <= now and self._trials_in_flight < self.policy.trials

    def next_trial_at(self, now: float) -> float:
        """When a call is allowed: -inf while closed, at or before `now` exactly when `allows_call` is true.

        While all trials are unanswered it is an estimate, an interval from now: the next answer decides.
        """
        if self._trials_in_flight >= self.policy.trials:
            return max(self._next_trial_at, now + self._interval_s)
        return self._next_trial_at

    def copy(self) -> Breaker:
        """A copy for a simulation."""
        clone = copy(self)
        clone._calls_by_bucket, clone._failures_by_bucket = list(self._calls_by_bucket), list(self._failures_by_bucket)
        return clone

    def state(self, now: float) -> BreakerState:
        """The state; half open while a trial is due or unanswered."""
        if not self._is_open:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._trials_in_flight or self._next_trial_at <= now else BreakerState.OPEN

    def on_grant(self, now: float) -> int:
        """Count a call that is sent; pass its ticket to `on_result` once."""
        if not self._is_open:
            return self._period
        if not self.allows_call(now):
            return UNCOUNTED_TICKET
        self._trials_in_flight += 1
        self._last_trial_at = now
        self._next_trial_at = now + self._jittered_interval_s()
        self._interval_s = min(2 * self._interval_s, self.policy.max_open_s)
        return self._period

    @staticmethod
    def is_trial(ticket: int) -> bool:
        """Whether the call with this ticket was a trial."""
        return ticket > 0 and ticket % 2 == 1

    def on_result(self, success: bool | None, ticket: int, now: float) -> None:
        """Count a result: success, failure, or None where it says nothing about the upstream."""
        if ticket != self._period:
            return
        if self._is_open:
            self._on_trial_result(success, now)
            return
        if success is None:
            return
        bucket = int(now / self._bucket_width_s)
        if bucket != self._current_bucket:
            self._expire_buckets(bucket)
        slot = bucket % _BUCKETS
        self._calls_by_bucket[slot] += 1
        self._calls += 1
        if not success:
            self._failures_by_bucket[slot] += 1
            self._failures += 1
        policy = self.policy
        if self._calls >= policy.min_calls and self._failures >= policy.ratio * self._calls and self._failures:
            self._trip(now)

    def reset(self) -> None:
        """Close it and clear the counts; calls in flight do not count."""
        self._period += 2 - self._period % 2
        self._closed_at = self._next_trial_at = -inf
        self._interval_s = self.policy.open_s
        self._trials_in_flight = 0
        self._clear_counts()

    def retune(self, policy: BreakerPolicy) -> None:
        """Change the policy and keep the state; a window of another length clears the counts."""
        previous, self.policy = self.policy, policy
        self._interval_s = min(max(self._interval_s, policy.open_s), policy.max_open_s)
        if policy.window_s != previous.window_s:
            self._clear_counts()

    def _on_trial_result(self, success: bool | None, now: float) -> None:
        self._trials_in_flight -= 1
        if success:
            self._period += 1
            self._closed_at = now
            self._next_trial_at = -inf
            self._trials_in_flight = 0
            self._clear_counts()
        elif success is None:
            self._next_trial_at = min(self._next_trial_at, self._last_trial_at + self.policy.open_s)
            self._interval_s = max(self._interval_s / 2, self.policy.open_s)

    def _trip(self, now: float) -> None:
        self._period += 1
        if now - self._closed_at > self.policy.window_s:
            self._interval_s = self.policy.open_s
        self._next_trial_at = now + self._jittered_interval_s()
        self._interval_s = min(2 * self._interval_s, self.policy.max_open_s)

    def _jittered_interval_s(self) -> float:
        return self._interval_s * self._draw_uniform(*_JITTER)

    def _clear_counts(self) -> None:
        self._bucket_width_s = self.policy.window_s / _BUCKETS
        self._current_bucket = 0
        self._calls_by_bucket = [0] * _BUCKETS
        self._failures_by_bucket = [0] * _BUCKETS
        self._calls = self._failures = 0

    def _expire_buckets(self, bucket: int) -> None:
        """Clear the buckets that expired since the last call."""
        for expired in range(max(self._current_bucket + 1, bucket - _BUCKETS + 1), bucket + 1):
            slot = expired % _BUCKETS
            self._calls -= self._calls_by_bucket[slot]
            self._failures -= self._failures_by_bucket[slot]
            self._calls_by_bucket[slot] = self._failures_by_bucket[slot] = 0
        self._current_bucket = bucket
