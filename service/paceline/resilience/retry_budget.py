"""The retries that an upstream gets: a share of its first sends, and a few a second.

Rules:

* an item's first send earns `ratio` of a retry, which expires after `window_s`; retries earn nothing, so that they
  cannot pay for one another;
* in addition, `retries_per_s` retries a second refill, up to one second's (or one retry, where that is less);
* a retry spends one: first of the refilled ones (they would be lost soonest), then of the oldest earnings.

So any interval of T seconds has at most `ratio` x (first sends of that interval and of the `window_s` before it) +
`retries_per_s` x (T + 1 s) retries, whatever the strategy and however the upstream fails: each earning is spent once,
and each was earned in the interval or in the window before it.

Pure: moments are arguments. Memory is fixed: earnings have `_BUCKETS` counters, each expires as a whole.
"""

from __future__ import annotations

_BUCKETS = 20
_ROUNDING_TOLERANCE = 1e-9


class RetryBudget:
    """The retries one upstream may be sent."""

    __slots__ = (
        "_bucket_width_s",
        "_current_bucket",
        "_earned",
        "_earned_by_bucket",
        "_oldest_bucket",
        "_refilled_at",
        "_refilled_retries",
        "ratio",
        "retries_per_s",
    )  # fmt: skip

    def __init__(self, ratio: float = 0.2, retries_per_s: float = 3.0, window_s: float = 10.0) -> None:
        self.ratio = ratio
        self.retries_per_s = retries_per_s
        self._bucket_width_s = window_s / _BUCKETS
        self.reset()

    def reset(self) -> None:
        """Start again: nothing earned, one second's retries available."""
        self._earned_by_bucket = [0.0] * _BUCKETS
        self._earned = 0.0
        self._current_bucket = 0
        self._oldest_bucket = 0
        """No earlier bucket holds anything."""
        self._refilled_retries = self._max_refilled_retries
        self._refilled_at = 0.0

    @property
    def _max_refilled_retries(self) -> float:
        return max(1.0, self.retries_per_s) if self.retries_per_s else 0.0

    def retune(self, ratio: float, retries_per_s: float) -> None:
        """Change the rates; what was earned stays."""
        self.ratio, self.retries_per_s = ratio, retries_per_s
        self._refilled_retries = min(self._refilled_retries, self._max_refilled_retries)

    def on_first_send(self, now: float) -> None:
        """Count an item's first attempt."""
        bucket = int(now / self._bucket_width_s)
        if bucket != self._current_bucket:
            self._expire_buckets(bucket)
        self._earned_by_bucket[bucket % _BUCKETS] += self.ratio
        self._earned += self.ratio

    def try_spend(self, now: float) -> bool:
        """Spend a retry; False where there is none."""
        if self.remaining(now) < 1 - _ROUNDING_TOLERANCE:
            return False
        owed = 1 - min(1.0, self._refilled_retries)
        self._refilled_retries -= 1 - owed
        while owed > _ROUNDING_TOLERANCE:
            slot = self._oldest_bucket % _BUCKETS
            paid = min(owed, self._earned_by_bucket[slot])
            self._earned_by_bucket[slot] -= paid
            self._earned -= paid
            owed -= paid
            if self._oldest_bucket == self._current_bucket:
                break
            if self._earned_by_bucket[slot] <= _ROUNDING_TOLERANCE:
                self._oldest_bucket += 1
        return True

    def remaining(self, now: float) -> float:
        """Retries that are available now."""
        bucket = int(now / self._bucket_width_s)
        if bucket != self._current_bucket:
            self._expire_buckets(bucket)
        if now > self._refilled_at:
            self._refilled_retries = min(
                self._max_refilled_retries, self._refilled_retries + (now - self._refilled_at) * self.retries_per_s
            )
            self._refilled_at = now
        return self._refilled_retries + max(0.0, self._earned)

    def _expire_buckets(self, bucket: int) -> None:
        """Expire what was earned more than `window_s` ago."""
        for expired in range(max(self._current_bucket + 1, bucket - _BUCKETS + 1), bucket + 1):
            slot = expired % _BUCKETS
            self._earned -= self._earned_by_bucket[slot]
            self._earned_by_bucket[slot] = 0.0
        self._oldest_bucket = max(self._oldest_bucket, bucket - _BUCKETS + 1)
        self._current_bucket = bucket
        if self._oldest_bucket == bucket:
            self._earned = self._earned_by_bucket[bucket % _BUCKETS]
