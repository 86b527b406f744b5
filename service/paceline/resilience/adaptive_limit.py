"""The concurrency limit of an upstream that has none declared: learned from the gradient of latency.

Rules:

* the limit alternates between a low and a high level, a quarter apart (half, where that does not show enough), so that
  there is always something to compare. Only recent latencies are compared: no baseline becomes stale and no drift looks
  like a queue;
* the gradient is the slope of log latency over log in flight: 0 where more in flight cost nothing, 1 where latency
  grows in proportion. A slope near 1 lowers both levels, one below it raises them, in growing steps while the decisions
  agree; so the levels settle with the knee slightly above the low one;
* a slope counts only with its error, taken between intervals as well as between answers (a pause of the upstream
  affects a whole interval at once): the wider the latencies spread, the longer it measures. Until it is certain,
  nothing changes;
* after a change it waits until the slowest call from before has ended: the first answers are the fast ones;
* calls sent while less than half of the limit was in use say nothing about it: an unused limit does not grow;
* overload without an answer (`dropped`): when a quarter of about the last dozen calls were dropped, the limit falls by
  three tenths, once for the calls that were in flight together; below half of the limit they do not count either.

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
"""The duration of each level, in half mean latencies (at least 50 ms)."""
_LOW_UNITS_AT_MAX, _HIGH_UNITS_AT_MAX = 1.0, 3.0
"""The same where the limit has reached its maximum: it stays there for most of the time."""
_LEVEL_RATIO, _WIDE_LEVEL_RATIO = 1.25, 1.5
_KNEE_SLOPE = 0.82
"""The slope at which neither level is better: the knee of the curve then lies slightly above the low level."""
_MIN_INTERVALS = 4
"""The least number to compare: twice low, twice high."""
_MAX_INTERVALS = 40
"""The most to compare; where they do not suffice, the levels are set further apart."""
_MAX_ERROR_TO_LOWER, _MAX_ERROR_TO_RAISE = 0.4, 1.0
"""The largest error of a slope that may lower or raise: a growing queue shows soon, a limit too low never does."""
_LOWER_FACTORS, _RAISE_FACTORS = (0.9, 0.8, 0.7), (1.1, 1.25, 1.5)
"""Steps of the first, the second and any further decision of one kind; near the knee always the first."""
_DROPPED_SHARE, _DROPPED_FACTOR = 0.25, 0.7


class _SampleInterval:
    """Sums over the answers of one interval: x is log in flight, y is log latency."""

    __slots__ = ("n", "x", "xx", "xy", "y", "yy")

    def __init__(self) -> None:
        self.n = 0
        self.x = self.y = self.xx = self.xy = self.yy = 0.0


class AdaptiveLimit:
    """A concurrency limit between `min_limit` and `max_limit` that finds where more calls only wait longer."""

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
        """Forget everything learned."""
        self._base_limit = float(self._initial_limit)
        self._level_ratio = _LEVEL_RATIO
        self.limit = self._initial_limit
        self._low_limit = self._high_limit = self._initial_limit
        self._is_at_high = False
        self._decision_streak = 2
        """Decisions of one kind in a row, negative if they lowered; a new upstream starts with big steps up."""
        self._mean_latency_s = 0.0
        self._recent_max_latency_s = 0.0
        """The slowest recent answer."""
        self._interval = _SampleInterval()
        self._intervals: deque[_SampleInterval] = deque(maxlen=_MAX_INTERVALS)
        self._is_settled = False
        self._levels_set_at = -inf
        self._interval_ends_at = -inf
        self._dropped_share = 0.0
        self._lowered_at = -inf

    @property
    def bounds(self) -> tuple[int, int, int]:
        """Minimum, initial limit, maximum."""
        return self._min_limit, self._initial_limit, self._max_limit

    def retune(self, min_limit: int, initial_limit: int, max_limit: int, now: float) -> None:
        """Change the bounds and keep what was learned within them."""
        self._min_limit, self._initial_limit, self._max_limit = min_limit, initial_limit, max_limit
        self._set_levels(self._base_limit, now)

    def sample(self, latency_s: float, in_flight: int, now: float, dropped: bool = False) -> None:
        """Learn from one attempt, which took `latency_s` from its write to the last byte.

        Do not sample what says nothing about the upstream's load: cancelled, throttled, never connected, a fast error.

        Args:
            in_flight: Calls in flight when it was sent, including itself.
            dropped: Overload without an answer, such as a timeout.
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
        """Whether it has reached neither its knee nor its maximum."""
        return self._decision_streak > 1 and self._base_limit < self._max_limit

    @property
    def mean_limit(self) -> int:
        """The average of both levels."""
        return round((self._low_limit + self._high_limit) / 2)

    def copy(self) -> AdaptiveLimit:
        """A copy for a simulation."""
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
        """End an interval: change to the other level, or decide."""
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
        """The new base limit, or None while it is not certain."""
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
        """Set new levels and clear what the old ones showed."""
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
    """The least-squares slope over all intervals and its error, or None where there are too few answers.

    The error is the larger of two: as if every answer were independent, and with intervals as clusters (Liang and
    Zeger, 1986), because answers of one interval are not.
    """
    count = len(intervals)
    n = sum(interval.n for interval in intervals)
    if count < _MIN_INTERVALS or n < 10:
        return None
    x = sum(interval.x for interval in intervals) / n
    y = sum(interval.y for interval in intervals) / n
    xx = sum(interval.xx for interval in intervals) - n * x * x
    if xx < 1e-3:
        return None
    xy = sum(interval.xy for interval in intervals) - n * x * y
    yy = sum(interval.yy for interval in intervals) - n * y * y
    slope = xy / xx
    independent_error = sqrt(max(0.0, yy - slope * xy) / (n - 2) / xx)
    clustered_error = 0.0
    for interval in intervals:
        covariance = interval.xy - x * interval.y - y * interval.x + interval.n * x * y
        clustered_error += (covariance - slope * (interval.xx - 2 * x * interval.x + interval.n * x * x)) ** 2
    return slope, max(independent_error, sqrt(clustered_error * count / (count - 2)) / xx)
