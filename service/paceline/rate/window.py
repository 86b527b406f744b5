"""One rate window, kept so that a strict sliding-window upstream never refuses.

Two rules hold at once (limit L per W seconds, burst B, beat T = W/L; docs/decisions/0010-pacing.md says why):

* smooth: GCRA (ITU-T I.371) on an absolute schedule. A cost c is due at `tat - (B - min(c, B)) * T`; taking it sets
  `tat = max(tat, moment) + c * T`. `moment` is when the rate allowed it, which a late timer does not move; where the
  rate alone held the queue, it may lie one beat back, so that a token that comes back late costs no beat.
* exact: a token comes back only when the upstream must have forgotten it. Until written it is held; written at `s`
  and answered at `r` it is free at the earlier of `r + W + 1 ms - m` and `s + W + transit`, where m is a safe floor of
  the round trip.

Pure: every moment is an argument (`time.perf_counter()` seconds). Memory is bounded by what is in flight plus
`_BUCKETS` counters, whatever the limit: freed tokens are logged in buckets of W / _BUCKETS, rounded up, so a window
of a million a day never under-counts and never keeps a million moments.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from heapq import heappop, heappush
from math import ceil, inf

from paceline.model import Rate

_BUCKETS = 4096
_MARGIN_S = 0.001
_ROUNDING = 1e-6
_RESOLUTION_S = 0.002
"""Timers keep no finer time: above 500 a second what goes together is more than one beat's worth anyway."""


class Hold:
    """The tokens one grant took from one window."""

    __slots__ = ("cost", "live", "written_at")

    def __init__(self, cost: float) -> None:
        self.cost = cost
        self.written_at: float | None = None
        self.live = True

    def fork(self, holds: Holds) -> Hold:
        """Its copy, the same one each time; see `Window.fork`."""
        fork = holds.get(self)
        if fork is None:
            fork = holds[self] = copy(self)
        return fork


Holds = dict[Hold, Hold]
"""Holds, and their copies."""


class Window:
    """Who may send within one rate, and if nobody, when to look again."""

    __slots__ = ("_buckets", "_flight", "_held", "_log", "_tat", "_width", "beat_s", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.beat_s = rate.per_s / rate.limit
        self._tat = -inf
        self._held = 0.0
        self._flight: deque[Hold] = deque()
        self._width = rate.per_s / _BUCKETS
        self._log: list[int] = []
        self._buckets: dict[int, float] = {}

    def due(self, cost: float, now: float, transit_s: float) -> float:
        """The earliest moment both rules may allow this cost; at or before `now` means it may be taken now.

        A lower bound: where the tokens that must come back first are not written yet, it is `inf`.
        """
        rate = self.rate
        if self._log or self._flight:
            self._forget(now, transit_s)
        smooth = self._tat - (rate.burst - cost) * self.beat_s if cost < rate.burst else self._tat
        if self._held + cost <= rate.limit + _ROUNDING:
            return smooth
        return max(smooth, self._next_free(transit_s))

    def soonest(self, ahead: float, cost: float, now: float) -> float:
        """A lower bound of when this cost can be paid if `ahead` must be paid before it."""
        slack = self.rate.burst - min(cost, self.rate.burst)
        return max(self._tat, now - max(self.beat_s, _RESOLUTION_S)) + (ahead - slack) * self.beat_s

    def take(self, cost: float, moment: float, *, held: bool = False) -> Hold:
        """Take the tokens; `moment` is when the rate allowed it, `held` that only the rate kept it until then."""
        beat_s = self.beat_s
        earliest = moment
        if held:
            earliest -= beat_s if beat_s > _RESOLUTION_S else _RESOLUTION_S
        self._tat = (earliest if earliest > self._tat else self._tat) + cost * beat_s
        self._held += cost
        return Hold(cost)

    def count(self, cost: float, now: float) -> Hold:
        """A send that this window did not bind: it holds its tokens, but puts off nobody by more than `per_s`."""
        hold = self.take(cost, now)
        self._tat = min(self._tat, now + self.rate.per_s)
        return hold

    def give_back(self, hold: Hold) -> None:
        """The grant was never written: as if it had not been."""
        if hold.live:
            hold.live = False
            self._held -= hold.cost
            self._tat -= hold.cost * self.beat_s

    def written(self, hold: Hold, now: float) -> None:
        """The upstream may count it from here on."""
        hold.written_at = now
        self._flight.append(hold)

    def answered(self, hold: Hold, now: float, floor_s: float, transit_s: float) -> float:
        """An answer came, so the upstream counted it at `now` less the way back at the latest.

        Returns when its tokens are free because of that; `inf` where it changes nothing.
        """
        if not hold.live or hold.written_at is None:
            return inf
        per_s = self.rate.per_s
        free_at = now + per_s + _MARGIN_S - (floor_s if floor_s < per_s / 4 else per_s / 4)
        if free_at >= hold.written_at + per_s + transit_s:
            return inf
        hold.live = False
        self._record(free_at, hold.cost)
        return free_at

    def remaining(self, now: float, transit_s: float) -> float:
        """Tokens that are free now."""
        self._forget(now, transit_s)
        return max(0.0, self.rate.limit - self._held)

    def retune(self, rate: Rate, now: float) -> None:
        """Change limit and burst and keep what was counted; the schedule stretches with the beat."""
        beat_s = rate.per_s / rate.limit
        if self._tat > now:
            self._tat = now + (self._tat - now) * beat_s / self.beat_s
        self.rate, self.beat_s = rate, beat_s

    def fork(self, holds: Holds) -> Window:
        """A copy to be run ahead of time by itself; the copies of its holds are noted in `holds`."""
        fork = copy(self)
        fork._log, fork._buckets = list(self._log), dict(self._buckets)
        fork._flight = deque(hold.fork(holds) for hold in self._flight)
        return fork

    def seed(self, other: Window) -> None:
        """Count what `other` still remembers, as this window will forget it."""
        longer_s = self.rate.per_s - other.rate.per_s
        for bucket, tokens in other._buckets.items():
            self._record(bucket * other._width + longer_s, tokens)
            self._held += tokens

    def _record(self, free_at: float, tokens: float) -> None:
        bucket = ceil(free_at / self._width)
        if bucket in self._buckets:
            self._buckets[bucket] += tokens
        else:
            self._buckets[bucket] = tokens
            heappush(self._log, bucket)

    def _forget(self, now: float, transit_s: float) -> None:
        log, flight = self._log, self._flight
        while log and log[0] * self._width <= now:
            self._held -= self._buckets.pop(heappop(log))
        while flight:
            hold = flight[0]
            if hold.live:
                assert hold.written_at is not None
                if hold.written_at + self.rate.per_s + transit_s > now:
                    return
                hold.live = False
                self._held -= hold.cost
            flight.popleft()

    def _next_free(self, transit_s: float) -> float:
        soonest = self._log[0] * self._width if self._log else inf
        if self._flight:
            written_at = self._flight[0].written_at
            assert written_at is not None
            soonest = min(soonest, written_at + self.rate.per_s + transit_s)
        return soonest
