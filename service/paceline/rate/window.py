"""One rate window, kept so that a strict sliding-window upstream never refuses.

Two rules hold at once (limit L per W seconds, burst B, emission interval T = W/L; docs/decisions/0010-pacing.md says
why):

* smooth: GCRA (ITU-T I.371) on an absolute schedule. A cost c is due at `tat - (B - min(c, B)) * T`; taking it sets
  `tat = max(tat, allowed_at) + c * T`. `allowed_at` is when the rate allowed it, which a late timer does not move;
  where the rate alone blocked the queue, it may lie one interval back, so that a token that returns late costs no
  interval.
* exact: a token returns only when the upstream no longer counts it. Until written it is held; written at `s` and
  answered at `r` it is free at the earlier of `r + W + 1 ms - m` and `s + W + transit`, where m is a safe floor of the
  round trip.

Pure: every moment is an argument (`time.perf_counter()` seconds). Memory is bounded by what is in flight plus
`_BUCKETS` counters, whatever the limit: freed tokens are logged in buckets of W / _BUCKETS, rounded up, so a window
of a million a day never under-counts and never keeps a million moments.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from heapq import heappop, heappush
from math import ceil, inf
from typing import Any

from paceline.model import Rate

_BUCKETS = 4096
_SAFETY_MARGIN_S = 0.001
_ROUNDING_TOLERANCE = 1e-6
_TIMER_RESOLUTION_S = 0.002
"""Seconds. Timers are no finer: above 500 a second, each wake-up grants more than one interval's worth."""

CopyMemo = dict[Any, Any]
"""Each original with its copy, as in `copy.deepcopy`: what several originals share stays shared among their copies."""


class TokenHold:
    """The tokens one grant took from one window."""

    __slots__ = ("cost", "is_active", "written_at")

    def __init__(self, cost: float) -> None:
        self.cost = cost
        self.written_at: float | None = None
        self.is_active = True

    def copy(self, memo: CopyMemo) -> TokenHold:
        """Copy this hold, once for all that refer to it."""
        clone: TokenHold | None = memo.get(self)
        if clone is None:
            clone = memo[self] = copy(self)
        return clone


class RateWindow:
    """Whether a cost may be sent within one rate, and the earliest moment at which it may."""

    __slots__ = (
        "_bucket_width_s",
        "_expiry_heap",
        "_held_tokens",
        "_in_flight",
        "_tat",
        "_tokens_by_bucket",
        "emission_interval_s",
        "rate",
    )

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.emission_interval_s = rate.per_s / rate.limit
        self._tat = -inf
        self._held_tokens = 0.0
        self._in_flight: deque[TokenHold] = deque()
        self._bucket_width_s = rate.per_s / _BUCKETS
        self._expiry_heap: list[int] = []
        self._tokens_by_bucket: dict[int, float] = {}

    def due_at(self, cost: float, now: float, transit_s: float) -> float:
        """The earliest moment both rules may allow this cost; at or before `now` means it may be taken now.

        A lower bound: where the tokens that must come back first are not written yet, it is `inf`.
        """
        rate = self.rate
        if self._expiry_heap or self._in_flight:
            self._expire_tokens(now, transit_s)
        gcra_due_at = self._tat - (rate.burst - cost) * self.emission_interval_s if cost < rate.burst else self._tat
        if self._held_tokens + cost <= rate.limit + _ROUNDING_TOLERANCE:
            return gcra_due_at
        return max(gcra_due_at, self._next_free_at(transit_s))

    def earliest_possible_at(self, ahead: float, cost: float, now: float) -> float:
        """A lower bound of when this cost can be paid if `ahead` must be paid before it."""
        slack = self.rate.burst - min(cost, self.rate.burst)
        return (
            max(self._tat, now - max(self.emission_interval_s, _TIMER_RESOLUTION_S))
            + (ahead - slack) * self.emission_interval_s
        )

    def take(self, cost: float, allowed_at: float, *, rate_bound: bool = False) -> TokenHold:
        """Take the tokens; `allowed_at` is when the rate allowed it, `rate_bound` that only the rate blocked it."""
        emission_interval_s = self.emission_interval_s
        earliest = allowed_at
        if rate_bound:
            earliest -= emission_interval_s if emission_interval_s > _TIMER_RESOLUTION_S else _TIMER_RESOLUTION_S
        self._tat = (earliest if earliest > self._tat else self._tat) + cost * emission_interval_s
        self._held_tokens += cost
        return TokenHold(cost)

    def take_unbound(self, cost: float, now: float) -> TokenHold:
        """Take tokens for a send that this window does not bind: it delays no other by more than `per_s`."""
        hold = self.take(cost, now)
        self._tat = min(self._tat, now + self.rate.per_s)
        return hold

    def release(self, hold: TokenHold) -> None:
        """Return the tokens of a grant that was never written."""
        if hold.is_active:
            hold.is_active = False
            self._held_tokens -= hold.cost
            self._tat -= hold.cost * self.emission_interval_s

    def mark_written(self, hold: TokenHold, now: float) -> None:
        """Record that the upstream may count it from now on."""
        hold.written_at = now
        self._in_flight.append(hold)

    def mark_answered(self, hold: TokenHold, now: float, round_trip_floor_s: float, transit_s: float) -> float:
        """Record a response: the upstream counted the request before `now` less the way back.

        Returns when its tokens are free because of that; `inf` where it changes nothing.
        """
        if not hold.is_active or hold.written_at is None:
            return inf
        per_s = self.rate.per_s
        free_at = now + per_s + _SAFETY_MARGIN_S - (round_trip_floor_s if round_trip_floor_s < per_s / 4 else per_s / 4)
        if free_at >= hold.written_at + per_s + transit_s:
            return inf
        hold.is_active = False
        self._record_expiry(free_at, hold.cost)
        return free_at

    def remaining(self, now: float, transit_s: float) -> float:
        """Tokens that are free now."""
        self._expire_tokens(now, transit_s)
        return max(0.0, self.rate.limit - self._held_tokens)

    def retune(self, rate: Rate, now: float) -> None:
        """Change limit and burst and keep what was counted; the schedule stretches with the emission interval."""
        emission_interval_s = rate.per_s / rate.limit
        if self._tat > now:
            self._tat = now + (self._tat - now) * emission_interval_s / self.emission_interval_s
        self.rate, self.emission_interval_s = rate, emission_interval_s

    def copy(self, memo: CopyMemo) -> RateWindow:
        """Copy this window and its holds, once for all that refer to them."""
        clone: RateWindow | None = memo.get(self)
        if clone is None:
            clone = memo[self] = copy(self)
            clone._expiry_heap, clone._tokens_by_bucket = list(self._expiry_heap), dict(self._tokens_by_bucket)
            clone._in_flight = deque(hold.copy(memo) for hold in self._in_flight)
        return clone

    def seed_from(self, other: RateWindow) -> None:
        """Count the tokens that `other` still counts, until this window's length has passed."""
        extra_s = self.rate.per_s - other.rate.per_s
        for bucket, tokens in other._tokens_by_bucket.items():
            self._record_expiry(bucket * other._bucket_width_s + extra_s, tokens)
            self._held_tokens += tokens

    def _record_expiry(self, free_at: float, tokens: float) -> None:
        bucket = ceil(free_at / self._bucket_width_s)
        if bucket in self._tokens_by_bucket:
            self._tokens_by_bucket[bucket] += tokens
        else:
            self._tokens_by_bucket[bucket] = tokens
            heappush(self._expiry_heap, bucket)

    def _expire_tokens(self, now: float, transit_s: float) -> None:
        expiry_heap, in_flight = self._expiry_heap, self._in_flight
        while expiry_heap and expiry_heap[0] * self._bucket_width_s <= now:
            self._held_tokens -= self._tokens_by_bucket.pop(heappop(expiry_heap))
        while in_flight:
            hold = in_flight[0]
            if hold.is_active:
                assert hold.written_at is not None
                if hold.written_at + self.rate.per_s + transit_s > now:
                    return
                hold.is_active = False
                self._held_tokens -= hold.cost
            in_flight.popleft()

    def _next_free_at(self, transit_s: float) -> float:
        free_at = self._expiry_heap[0] * self._bucket_width_s if self._expiry_heap else inf
        if self._in_flight:
            written_at = self._in_flight[0].written_at
            assert written_at is not None
            free_at = min(free_at, written_at + self.rate.per_s + transit_s)
        return free_at
