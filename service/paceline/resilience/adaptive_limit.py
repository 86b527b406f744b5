"""How many may be in flight with an upstream that has not said so: learned from the gradient of latency.

Rules:

* the limit goes back and forth between a low and a high level, a quarter apart (half, where that does not show enough),
  so that there is always something to compare. Nothing is compared with a latency of long ago: no baseline goes stale
  and no drift looks like a queue;
* the gradient is the slope of log latency over log in flight: 0 where more in flight cost nothing, 1 where the more
  there are the longer they wait. A slope near 1 lowers both levels, one below it raises them, in growing steps while
  the verdicts agree; so the levels come to rest with the knee a little above the low one;
* a slope counts only with its error, taken between stretches as well as between answers (a pause of the upstream's hits
  a whole stretch at once): the wider the latencies spread, the longer it looks. Until it is sure, nothing changes;
* after a change it waits until the slowest of what was sent before is back: who answers first answers fast;
* answers sent while less than half of the limit was in use say nothing about it: what is not used does not grow;
* overload without an answer (`dropped`): when a quarter of the last dozen or so were, the limit falls by three tenths,
  once for what was in flight together; dropped calls among few say as little as answered ones.

Pure: moments are arguments. Sources: Netflix concurrency-limits (gradient of latency, only what is used grows) and
Envoy's adaptive concurrency (measure again and again at a lower limit). docs/decisions/0013-adaptive-concurrency.md
says what differs and has the figures.
"""

from __future__ import annotations

from collections import deque
from copy import deepcopy
from math import inf, log, sqrt

_MIN_UNIT_S = 0.05
_LOW_UNITS, _HIGH_UNITS = 1.25, 1.0
"""How long each level lasts, in half mean latencies (at least 50 ms)."""
_LOW_UNITS_AT_MAX, _HIGH_UNITS_AT_MAX = 1.0, 3.0
"""And where the limit has come to its maximum: mostly there."""
_LEVEL_RATIO, _WIDE_LEVEL_RATIO = 1.25, 1.5
_KNEE_SLOPE = 0.82
"""The slope at which neither is better: the knee of the curve then lies a little above the low level."""
_MIN_INTERVALS = 4
"""So many are compared at least: twice low, twice high."""
_MAX_INTERVALS = 40
"""No more than these; still unsure with them, it sets the levels further apart."""
_MAX_ERROR_TO_LOWER, _MAX_ERROR_TO_RAISE = 0.4, 1.0
"""The error of a slope that may lower or raise: growing into a queue shows soon, a limit too low never does."""
_LOWER_FACTORS, _RAISE_FACTORS = (0.9, 0.8, 0.7), (1.1, 1.25, 1.5)
"""Steps of the first, the second and any further verdict of one kind; near the knee always the first."""
_DROPPED_SHARE, _DROPPED_FACTOR = 0.25, 0.7


class _SampleInterval:
    """Sums over the answers of one stretch: x is log in flight, y is log latency."""

    __slots__ = ("n", "x", "xx", "xy", "y", "yy")

    def __init__(self) -> None:
        self.n = 0
        self.x = self.y = self.xx = self.xy = self.yy = 0.0


class AdaptiveLimit:
    """A concurrency limit between `least` and `most` that finds where more in flight only wait longer."""

    __slots__ = (
        "_base_limit",
        "_decision_streak",
        "_dropped_share",
        "_high_limit",
        "_initial_limit",
        "_interval",
        "_interval_ends_at",
        "_intervals",
        "_is_at_high",
        "_is_settled",
        "_level_ratio",
        "_levels_set_at",
        "_low_limit",
        "_lowered_at",
        "_max_limit",
        "_mean_latency_s",
        "_min_limit",
        "_recent_max_latency_s",
        "limit",
    )  # fmt: skip

    limit: int

    def __init__(self, min_limit: int = 1, initial_limit: int = 20, max_limit: int = 200) -> None:
        self._min_limit, self._initial_limit, self._max_limit = min_limit, initial_limit, max_limit
        self.reset()

    def reset(self) -> None:
        """Forget all that was learned."""
        self._base_limit = float(self._initial_limit)
        self._level_ratio = _LEVEL_RATIO
        self.limit = self._initial_limit
        self._low_limit = self._high_limit = self._initial_limit
        self._is_at_high = False
        self._decision_streak = 2
        """How many of one kind came in a row, negative if they lowered; a new upstream starts with big steps up."""
        self._mean_latency_s = 0.0
        self._recent_max_latency_s = 0.0
        """The slowest answer of late."""
        self._interval = _SampleInterval()
        self._intervals: deque[_SampleInterval] = deque(maxlen=_MAX_INTERVALS)
        self._is_settled = False
        self._levels_set_at = -inf
        self._interval_ends_at = -inf
        self._dropped_share = 0.0
        self._lowered_at = -inf

    @property
    def bounds(self) -> tuple[int, int, int]:
        """Least, initial, most."""
        return self._min_limit, self._initial_limit, self._max_limit

    def retune(self, min_limit: int, initial_limit: int, max_limit: int, now: float) -> None:
        """Change the bounds and keep what was learned, as far as they allow."""
        self._min_limit, self._initial_limit, self._max_limit = min_limit, initial_limit, max_limit
        self._set_levels(self._base_limit, now)

    def sample(self, latency_s: float, in_flight: int, now: float, dropped: bool = False) -> None:
        """Learn from one attempt, which took `latency_s` from its write to the last byte.

        `in_flight` is how many there were when it was sent, itself included.

        `dropped`: overload without an answer, such as a timeout. What says nothing about the upstream's load
        (cancelled, throttled, never connected, an error it was quick to give) is not to be sampled at all.
        """
        if dropped:
            if 2 * in_flight >= self.limit:
                self._record_drop(now - latency_s, now)
            return
        self._dropped_share -= self._dropped_share / 16
        if not self._mean_latency_s:
            self._mean_latency_s = latency_s
            self._set_levels(self._base_limit, now)
        self._mean_latency_s += (latency_s - self._mean_latency_s) / 32
        if latency_s > self._recent_max_latency_s:
            self._recent_max_latency_s = latency_s
        if self._is_settled and 2 * in_flight >= self.limit:
            x, y = log(in_flight), log(max(latency_s, 1e-6))
            interval = self._interval
            interval.n += 1
            interval.x += x
            interval.y += y
            interval.xx += x * x
            interval.xy += x * y
            interval.yy += y * y
        if now >= self._interval_ends_at:
            self._end_interval(now)

    @property
    def is_climbing(self) -> bool:
        """It has met neither its knee nor its maximum yet."""
        return self._decision_streak > 1 and self._base_limit < self._max_limit

    @property
    def mean_limit(self) -> int:
        """The limit on average, while it goes back and forth."""
        return round((self._low_limit + self._high_limit) / 2)

    def copy(self) -> AdaptiveLimit:
        """A copy to be run ahead of time by itself."""
        return deepcopy(self)

    def _record_drop(self, sent_at: float, now: float) -> None:
        if sent_at < self._lowered_at:
            return
        self._dropped_share += (1 - self._dropped_share) / 16
        if self._dropped_share > _DROPPED_SHARE:
            self._dropped_share = 0.0
            self._lowered_at = now
            self._decision_streak = 2
            self._set_levels(self._base_limit * _DROPPED_FACTOR, now)

    def _end_interval(self, now: float) -> None:
        """A stretch is over: go to the other level, or decide."""
        if self._interval.n:
            self._intervals.append(self._interval)
            self._interval = _SampleInterval()
        if not self._is_at_high:
            self._start_interval(True, now)
            return
        if not self._is_settled:
            self._is_settled = now - self._levels_set_at >= min(self._recent_max_latency_s, 10 * self._mean_latency_s)
            self._intervals.clear()
        elif (base_limit := self._decide_base_limit()) is not None:
            self._set_levels(base_limit, now)
            return
        self._start_interval(False, now)

    def _decide_base_limit(self) -> float | None:
        """A new base, or None while it is not sure."""
        slope = _slope(self._intervals)
        if slope is None:
            return None
        gradient, error = slope
        max_error_to_lower, max_error_to_raise = _MAX_ERROR_TO_LOWER, _MAX_ERROR_TO_RAISE
        if len(self._intervals) == _MAX_INTERVALS:
            if self._level_ratio < _WIDE_LEVEL_RATIO:
                self._level_ratio = _WIDE_LEVEL_RATIO
                return self._base_limit
            max_error_to_lower = max_error_to_raise = inf
        if gradient + 0.3 * error < _KNEE_SLOPE and error <= max_error_to_raise:
            is_near_knee = gradient - error > 0.5
            self._decision_streak = 1 if is_near_knee else max(self._decision_streak, 0) + 1
            step = min(self._decision_streak, 3 if gradient + 2 * error < _KNEE_SLOPE else 2)
            return max(self._base_limit * _RAISE_FACTORS[step - 1], self._base_limit + 0.5)
        if gradient - error > _KNEE_SLOPE and error <= max_error_to_lower:
            self._level_ratio = _LEVEL_RATIO
            is_near_knee = gradient - error < 0.9
            self._decision_streak = -1 if is_near_knee else min(self._decision_streak, 0) - 1
            return min(self._base_limit * _LOWER_FACTORS[min(-self._decision_streak, 3) - 1], self._base_limit - 1)
        return None

    def _set_levels(self, base_limit: float, now: float) -> None:
        """Set the levels anew and forget what the old ones showed."""
        self._base_limit = min(max(base_limit, float(self._min_limit)), float(self._max_limit))
        self._levels_set_at = now
        self._is_settled = False
        self._intervals.clear()
        self._interval = _SampleInterval()
        low = round(self._base_limit)
        high = max(low + 1, round(self._base_limit * self._level_ratio))
        if high > self._max_limit:
            high = self._max_limit
            low = min(low, max(self._min_limit, min(high - 1, int(high / self._level_ratio))))
        self._low_limit, self._high_limit = low, high
        self._start_interval(False, now)

    def _start_interval(self, at_high: bool, now: float) -> None:
        self._is_at_high = at_high
        self.limit = self._high_limit if at_high else self._low_limit
        self._recent_max_latency_s *= 0.85
        low, high = (
            (_LOW_UNITS_AT_MAX, _HIGH_UNITS_AT_MAX)
            if self._base_limit >= self._max_limit
            else (_LOW_UNITS, _HIGH_UNITS)
        )
        self._interval_ends_at = now + (high if at_high else low) * max(self._mean_latency_s / 2, _MIN_UNIT_S)


def _slope(intervals: deque[_SampleInterval]) -> tuple[float, float] | None:
    """The least-squares slope over all stretches and its error, or None where there is too little to tell.

    The error is the larger of two: as if every answer were independent, and with stretches as clusters (Liang and
    Zeger, 1986), because answers of one stretch are not.
    """
    count = len(intervals)
    n = sum(stretch.n for stretch in intervals)
    if count < _MIN_INTERVALS or n < 10:
        return None
    x = sum(stretch.x for stretch in intervals) / n
    y = sum(stretch.y for stretch in intervals) / n
    xx = sum(stretch.xx for stretch in intervals) - n * x * x
    if xx < 1e-3:
        return None
    xy = sum(stretch.xy for stretch in intervals) - n * x * y
    yy = sum(stretch.yy for stretch in intervals) - n * y * y
    slope = xy / xx
    independent_error = sqrt(max(0.0, yy - slope * xy) / (n - 2) / xx)
    clustered_error = 0.0
    for interval in intervals:
        covariance = interval.xy - x * interval.y - y * interval.x + interval.n * x * y
        clustered_error += (covariance - slope * (interval.xx - 2 * x * interval.x + interval.n * x * x)) ** 2
    return slope, max(independent_error, sqrt(clustered_error * count / (count - 2)) / xx)
