"""A safe floor of the round trip to an upstream: no percentile, only never above the true one."""

from __future__ import annotations

from math import inf

_EPOCH_S = 10.0
_SAMPLES = 256


class RoundTripFloor:
    """`max(0, min - 4 (mean - min) / n)` over the last two epochs; 0 until there are 256 samples.

    Feed it exchanges over connections used before: a cold burst measures its own queue. The correction is that of the
    minimum of n draws, four times over, so that an exponential tail above the true floor leaves it below.
    """

    __slots__ = ("_least", "_n", "_old_least", "_old_n", "_old_sum", "_since", "_sum", "floor_s")

    def __init__(self) -> None:
        self.floor_s = 0.0
        self._since: float | None = None
        self._n = self._old_n = 0
        self._sum = self._old_sum = 0.0
        self._least = self._old_least = inf

    def add(self, round_trip_s: float, now: float) -> None:
        if self._since is None:
            self._since = now
        elif now - self._since >= _EPOCH_S and self._n >= _SAMPLES:
            self._old_n, self._old_sum, self._old_least = self._n, self._sum, self._least
            self._n, self._sum, self._least = 0, 0.0, inf
            self._since = now
        self._n += 1
        self._sum += round_trip_s
        if round_trip_s < self._least:
            self._least = round_trip_s
        n = self._n + self._old_n
        if n >= _SAMPLES:
            least = self._least if self._least < self._old_least else self._old_least
            floor_s = least - 4 * ((self._sum + self._old_sum) / n - least) / n
            self.floor_s = floor_s if floor_s > 0.0 else 0.0
