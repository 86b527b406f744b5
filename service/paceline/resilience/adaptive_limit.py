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

_UNIT_S = 0.05
_LOW_UNITS, _HIGH_UNITS = 1.25, 1.0
"""How long each level lasts, in half mean latencies (at least 50 ms)."""
_TOP_LOW_UNITS, _TOP_HIGH_UNITS = 1.0, 3.0
"""And where the limit has come to its maximum: mostly there."""
_APART, _FAR_APART = 1.25, 1.5
_KNEE = 0.82
"""The slope at which neither is better: the knee of the curve then lies a little above the low level."""
_STRETCHES = 4
"""So many are compared at least: twice low, twice high."""
_REMEMBERED = 40
"""No more than these; still unsure with them, it sets the levels further apart."""
_SURE_TO_LOWER, _SURE_TO_RAISE = 0.4, 1.0
"""The error of a slope that may lower or raise: growing into a queue shows soon, a limit too low never does."""
_LOWER, _RAISE = (0.9, 0.8, 0.7), (1.1, 1.25, 1.5)
"""Steps of the first, the second and any further verdict of one kind; near the knee always the first."""
_DROPPED_SHARE, _DROPPED_STEP = 0.25, 0.7


class _Stretch:
    """Sums over the answers of one stretch: x is log in flight, y is log latency."""

    __slots__ = ("n", "x", "xx", "xy", "y", "yy")

    def __init__(self) -> None:
        self.n = 0
        self.x = self.y = self.xx = self.xy = self.yy = 0.0


class AdaptiveLimit:
    """A concurrency limit between `least` and `most` that finds where more in flight only wait longer."""

    __slots__ = (
        "_apart", "_base", "_cut_at", "_dropped", "_high", "_initial", "_least", "_low", "_mean_s", "_most",
        "_moved_at", "_on_high", "_reach_s", "_settled", "_stretch", "_stretches", "_until", "_verdicts", "limit",
    )  # fmt: skip

    limit: int

    def __init__(self, least: int = 1, initial: int = 20, most: int = 200) -> None:
        self._least, self._initial, self._most = least, initial, most
        self.reset()

    def reset(self) -> None:
        """Forget all that was learned."""
        self._base = float(self._initial)
        self._apart = _APART
        self.limit = self._initial
        self._low = self._high = self._initial
        self._on_high = False
        self._verdicts = 2
        """How many of one kind came in a row, negative if they lowered; a new upstream starts with big steps up."""
        self._mean_s = 0.0
        self._reach_s = 0.0
        """The slowest answer of late."""
        self._stretch = _Stretch()
        self._stretches: deque[_Stretch] = deque(maxlen=_REMEMBERED)
        self._settled = False
        self._moved_at = -inf
        self._until = -inf
        self._dropped = 0.0
        self._cut_at = -inf

    @property
    def bounds(self) -> tuple[int, int, int]:
        """Least, initial, most."""
        return self._least, self._initial, self._most

    def retune(self, least: int, initial: int, most: int, now: float) -> None:
        """Change the bounds and keep what was learned, as far as they allow."""
        self._least, self._initial, self._most = least, initial, most
        self._move(self._base, now)

    def sample(self, latency_s: float, in_flight: int, now: float, dropped: bool = False) -> None:
        """Learn from one attempt, which took `latency_s` from its write to the last byte.

        `in_flight` is how many there were when it was sent, itself included.

        `dropped`: overload without an answer, such as a timeout. What says nothing about the upstream's load
        (cancelled, throttled, never connected, an error it was quick to give) is not to be sampled at all.
        """
        if dropped:
            if 2 * in_flight >= self.limit:
                self._drop(now - latency_s, now)
            return
        self._dropped -= self._dropped / 16
        if not self._mean_s:
            self._mean_s = latency_s
            self._move(self._base, now)
        self._mean_s += (latency_s - self._mean_s) / 32
        if latency_s > self._reach_s:
            self._reach_s = latency_s
        if self._settled and 2 * in_flight >= self.limit:
            x, y = log(in_flight), log(max(latency_s, 1e-6))
            stretch = self._stretch
            stretch.n += 1
            stretch.x += x
            stretch.y += y
            stretch.xx += x * x
            stretch.xy += x * y
            stretch.yy += y * y
        if now >= self._until:
            self._turn(now)

    @property
    def climbing(self) -> bool:
        """It has met neither its knee nor its maximum yet."""
        return self._verdicts > 1 and self._base < self._most

    @property
    def level(self) -> int:
        """The limit on average, while it goes back and forth."""
        return round((self._low + self._high) / 2)

    def fork(self) -> AdaptiveLimit:
        """A copy to be run ahead of time by itself."""
        return deepcopy(self)

    def _drop(self, sent_at: float, now: float) -> None:
        if sent_at < self._cut_at:
            return
        self._dropped += (1 - self._dropped) / 16
        if self._dropped > _DROPPED_SHARE:
            self._dropped = 0.0
            self._cut_at = now
            self._verdicts = 2
            self._move(self._base * _DROPPED_STEP, now)

    def _turn(self, now: float) -> None:
        """A stretch is over: go to the other level, or decide."""
        if self._stretch.n:
            self._stretches.append(self._stretch)
            self._stretch = _Stretch()
        if not self._on_high:
            self._go(True, now)
            return
        if not self._settled:
            self._settled = now - self._moved_at >= min(self._reach_s, 10 * self._mean_s)
            self._stretches.clear()
        elif (base := self._verdict()) is not None:
            self._move(base, now)
            return
        self._go(False, now)

    def _verdict(self) -> float | None:
        """A new base, or None while it is not sure."""
        slope = _slope(self._stretches)
        if slope is None:
            return None
        gradient, error = slope
        sure_to_lower, sure_to_raise = _SURE_TO_LOWER, _SURE_TO_RAISE
        if len(self._stretches) == _REMEMBERED:
            if self._apart < _FAR_APART:
                self._apart = _FAR_APART
                return self._base
            sure_to_lower = sure_to_raise = inf
        if gradient + 0.3 * error < _KNEE and error <= sure_to_raise:
            near = gradient - error > 0.5
            self._verdicts = 1 if near else max(self._verdicts, 0) + 1
            step = min(self._verdicts, 3 if gradient + 2 * error < _KNEE else 2)
            return max(self._base * _RAISE[step - 1], self._base + 0.5)
        if gradient - error > _KNEE and error <= sure_to_lower:
            self._apart = _APART
            near = gradient - error < 0.9
            self._verdicts = -1 if near else min(self._verdicts, 0) - 1
            return min(self._base * _LOWER[min(-self._verdicts, 3) - 1], self._base - 1)
        return None

    def _move(self, base: float, now: float) -> None:
        """Set the levels anew and forget what the old ones showed."""
        self._base = min(max(base, float(self._least)), float(self._most))
        self._moved_at = now
        self._settled = False
        self._stretches.clear()
        self._stretch = _Stretch()
        low = round(self._base)
        high = max(low + 1, round(self._base * self._apart))
        if high > self._most:
            high = self._most
            low = min(low, max(self._least, min(high - 1, int(high / self._apart))))
        self._low, self._high = low, high
        self._go(False, now)

    def _go(self, on_high: bool, now: float) -> None:
        self._on_high = on_high
        self.limit = self._high if on_high else self._low
        self._reach_s *= 0.85
        low, high = (_TOP_LOW_UNITS, _TOP_HIGH_UNITS) if self._base >= self._most else (_LOW_UNITS, _HIGH_UNITS)
        self._until = now + (high if on_high else low) * max(self._mean_s / 2, _UNIT_S)


def _slope(stretches: deque[_Stretch]) -> tuple[float, float] | None:
    """The least-squares slope over all stretches and its error, or None where there is too little to tell.

    The error is the larger of two: as if every answer were independent, and with stretches as clusters (Liang and
    Zeger, 1986), because answers of one stretch are not.
    """
    count = len(stretches)
    n = sum(stretch.n for stretch in stretches)
    if count < _STRETCHES or n < 10:
        return None
    x = sum(stretch.x for stretch in stretches) / n
    y = sum(stretch.y for stretch in stretches) / n
    xx = sum(stretch.xx for stretch in stretches) - n * x * x
    if xx < 1e-3:
        return None
    xy = sum(stretch.xy for stretch in stretches) - n * x * y
    yy = sum(stretch.yy for stretch in stretches) - n * y * y
    slope = xy / xx
    alone = sqrt(max(0.0, yy - slope * xy) / (n - 2) / xx)
    clusters = 0.0
    for part in stretches:
        covariance = part.xy - x * part.y - y * part.x + part.n * x * y
        clusters += (covariance - slope * (part.xx - 2 * x * part.x + part.n * x * x)) ** 2
    return slope, max(alone, sqrt(clusters * count / (count - 2)) / xx)
