"""The buckets of every histogram, and one series of a histogram."""

from __future__ import annotations

from bisect import bisect_left

BUCKET_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
"""Upper bounds of every histogram, inclusive, in seconds; longer durations count above the last."""


class DurationHistogram:
    """One histogram series: the count of each bucket, and the sum."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKET_BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, duration_s: float) -> None:
        self.counts[bisect_left(BUCKET_BOUNDS_S, duration_s)] += 1
        self.sum_s += duration_s
