"""How many retries an upstream gets: a share of what is sent to it anyway, and a few a second.

Rules:

* an item's first send earns `ratio` of a retry, which is good for `window_s` and then lost; retries earn nothing, so
  that they cannot pay for one another;
* besides, `per_s` retries a second, of which one second's are kept (or one retry, where that is less);
* a retry spends one: first of what comes by the second (it would be lost soonest), then of the oldest earnings.

So in any stretch of T seconds there are at most `ratio` x (first sends of that stretch and of the `window_s` before
it) + `per_s` x (T + 1 s) retries, whatever the strategy and however the upstream fails: each earning is spent once, and
each was earned in the stretch or in the window before it.

Pure: moments are arguments. Memory is fixed: earnings are kept in `_BUCKETS` counters, each lost when its oldest is.
"""

from __future__ import annotations

_BUCKETS = 20
_ROUNDING = 1e-9


class RetryBudget:
    """The retries one upstream may be sent."""

    __slots__ = (
        "_bucket", "_earned", "_earned_in", "_kept", "_oldest", "_refilled_at", "_width_s", "per_s", "ratio",
    )  # fmt: skip

    def __init__(self, ratio: float = 0.2, per_s: float = 3.0, window_s: float = 10.0) -> None:
        self.ratio = ratio
        self.per_s = per_s
        self._width_s = window_s / _BUCKETS
        self.reset()

    def reset(self) -> None:
        """As on the first day: nothing earned, one second's retries at hand."""
        self._earned_in = [0.0] * _BUCKETS
        self._earned = 0.0
        self._bucket = 0
        self._oldest = 0
        """No earlier bucket holds anything."""
        self._kept = self._most_kept
        self._refilled_at = 0.0

    @property
    def _most_kept(self) -> float:
        return max(1.0, self.per_s) if self.per_s else 0.0

    def retune(self, ratio: float, per_s: float) -> None:
        """Change the rates; what was earned stays."""
        self.ratio, self.per_s = ratio, per_s
        self._kept = min(self._kept, self._most_kept)

    def sent(self, now: float) -> None:
        """An item's first attempt was sent."""
        bucket = int(now / self._width_s)
        if bucket != self._bucket:
            self._advance(bucket)
        self._earned_in[bucket % _BUCKETS] += self.ratio
        self._earned += self.ratio

    def allow(self, now: float) -> bool:
        """Spend a retry, or say that there is none."""
        if self.remaining(now) < 1 - _ROUNDING:
            return False
        owed = 1 - min(1.0, self._kept)
        self._kept -= 1 - owed
        while owed > _ROUNDING:
            place = self._oldest % _BUCKETS
            paid = min(owed, self._earned_in[place])
            self._earned_in[place] -= paid
            self._earned -= paid
            owed -= paid
            if self._oldest == self._bucket:
                break
            if self._earned_in[place] <= _ROUNDING:
                self._oldest += 1
        return True

    def remaining(self, now: float) -> float:
        """Retries that are allowed now."""
        bucket = int(now / self._width_s)
        if bucket != self._bucket:
            self._advance(bucket)
        if now > self._refilled_at:
            self._kept = min(self._most_kept, self._kept + (now - self._refilled_at) * self.per_s)
            self._refilled_at = now
        return self._kept + max(0.0, self._earned)

    def _advance(self, bucket: int) -> None:
        """Lose what was earned too long ago."""
        for gone in range(max(self._bucket + 1, bucket - _BUCKETS + 1), bucket + 1):
            place = gone % _BUCKETS
            self._earned -= self._earned_in[place]
            self._earned_in[place] = 0.0
        self._oldest = max(self._oldest, bucket - _BUCKETS + 1)
        self._bucket = bucket
        if self._oldest == bucket:
            self._earned = self._earned_in[bucket % _BUCKETS]
