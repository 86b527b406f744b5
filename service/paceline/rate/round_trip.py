"""A safe floor of the round trip to an upstream: no percentile, only never above the true one."""

from __future__ import annotations

from math import inf

_EPOCH_S = 10.0
_MIN_SAMPLES = 256


class RoundTripFloor:
    """`max(0, min - 4 (mean - min) / n)` over the last two epochs; 0 until there are 256 samples.

    Feed it exchanges over connections used before: a cold burst measures its own queue. The correction is that of the
    minimum of n draws, four times over, so that an exponential tail above the true floor leaves it below.
    """

    __slots__ = (
        "_count",
        "_epoch_began_at",
        "_min_s",
        "_previous_count",
        "_previous_min_s",
        "_previous_sum_s",
        "_sum_s",
        "floor_s",
    )

    def __init__(self) -> None:
        self.floor_s = 0.0
        self._epoch_began_at: float | None = None
        self._count = self._previous_count = 0
        self._sum_s = self._previous_sum_s = 0.0
        self._min_s = self._previous_min_s = inf

    def add(self, round_trip_s: float, now: float) -> None:
        if self._epoch_began_at is None:
            self._epoch_began_at = now
        elif now - self._epoch_began_at >= _EPOCH_S and self._count >= _MIN_SAMPLES:
            self._previous_count, self._previous_sum_s, self._previous_min_s = self._count, self._sum_s, self._min_s
            self._count, self._sum_s, self._min_s = 0, 0.0, inf
            self._epoch_began_at = now
        self._count += 1
        self._sum_s += round_trip_s
        if round_trip_s < self._min_s:
            self._min_s = round_trip_s
        count = self._count + self._previous_count
        if count >= _MIN_SAMPLES:
            min_s = self._min_s if self._min_s < self._previous_min_s else self._previous_min_s
            floor_s = min_s - 4 * ((self._sum_s + self._previous_sum_s) / count - min_s) / count
            self.floor_s = floor_s if floor_s > 0.0 else 0.0
