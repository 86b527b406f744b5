"""How the demo API counts: a strict sliding window, fixed windows or a token bucket, and who else calls it.

Pure: the moment of an arrival is an argument, and moments never go back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import floor
from random import Random
from types import MappingProxyType
from typing import Protocol

DEFAULT_COST: Mapping[str, float] = MappingProxyType({"requests": 1.0})
"""What an arrival costs unless it says more."""


class ArrivalLimit(Protocol):
    """One limit. `limit` may be changed at any time and keeps what was counted."""

    limit: float

    def allows(self, now: float, cost: float) -> bool:
        """Whether an arrival of this cost is within the limit."""

    def record(self, now: float, cost: float) -> None:
        """Count an arrival."""

    def wait_s(self, now: float) -> float:
        """Seconds until an arrival of cost 1 would be within the limit, if nothing else comes."""


class SlidingWindowLimit:
    """At most `limit` in any stretch of `per_s`; an arrival leaves exactly `per_s` after it came."""

    __slots__ = ("_arrivals", "_used", "limit", "per_s")

    def __init__(self, limit: float, per_s: float) -> None:
        self.limit = limit
        self.per_s = per_s
        self._arrivals: deque[tuple[float, float]] = deque()
        self._used = 0.0

    def allows(self, now: float, cost: float) -> bool:
        arrivals = self._arrivals
        while arrivals and now - arrivals[0][0] >= self.per_s:
            self._used -= arrivals.popleft()[1]
        return self._used + cost <= self.limit

    def record(self, now: float, cost: float) -> None:
        self._arrivals.append((now, cost))
        self._used += cost

    def wait_s(self, now: float) -> float:
        excess = self._used + 1 - self.limit
        for arrived_at, cost in self._arrivals:
            if excess <= 0:
                break
            excess -= cost
            if excess <= 0:
                return max(0.0, arrived_at + self.per_s - now)
        return 0.0


class FixedWindowLimit:
    """At most `limit` in each window; the windows follow one another from moment 0 on."""

    __slots__ = ("_used", "_window_number", "limit", "per_s")

    def __init__(self, limit: float, per_s: float) -> None:
        self.limit = limit
        self.per_s = per_s
        self._window_number = -1
        self._used = 0.0

    def allows(self, now: float, cost: float) -> bool:
        number = floor(now / self.per_s)
        if number != self._window_number:
            self._window_number, self._used = number, 0.0
        return self._used + cost <= self.limit

    def record(self, now: float, cost: float) -> None:
        self._used += cost

    def wait_s(self, now: float) -> float:
        return 0.0 if self._used + 1 <= self.limit else (self._window_number + 1) * self.per_s - now


class TokenBucketLimit:
    """Holds `burst` tokens, full at first, and gains `limit` in each `per_s`."""

    __slots__ = ("_refilled_at", "_tokens", "burst", "limit", "per_s")

    def __init__(self, limit: float, per_s: float, burst: float) -> None:
        self.limit = limit
        self.per_s = per_s
        self.burst = self._tokens = burst
        self._refilled_at: float | None = None

    def allows(self, now: float, cost: float) -> bool:
        if self._refilled_at is not None:
            self._tokens = min(self.burst, self._tokens + (now - self._refilled_at) * self.limit / self.per_s)
        self._refilled_at = now
        return self._tokens >= cost

    def record(self, now: float, cost: float) -> None:
        self._tokens -= cost

    def wait_s(self, now: float) -> float:
        return max(0.0, (1 - self._tokens) * self.per_s / self.limit)


MODES: dict[str, Callable[[float, float], ArrivalLimit]] = {
    "sliding": SlidingWindowLimit,
    "fixed": FixedWindowLimit,
    "bucket": lambda limit, per_s: TokenBucketLimit(limit, per_s, max(1.0, limit / 10)),
}
"""By name; a bucket holds a tenth of its limit."""


class LimitSet:
    """All limits of an API at once: an arrival is within all of them or counted in none.

    With `count_refused` a refused one is counted in all.
    """

    def __init__(self, limits: Sequence[tuple[str, ArrivalLimit]], *, count_refused: bool = False) -> None:
        self.limits = limits
        """Each with the unit that it counts."""
        self.count_refused = count_refused

    def try_admit(self, now: float, cost: Mapping[str, float] = DEFAULT_COST) -> bool:
        """Whether an arrival is within every limit; it is counted if so."""
        allowed = True
        for unit, limit in self.limits:
            allowed &= limit.allows(now, cost.get(unit, 0.0))
        if allowed or self.count_refused:
            for unit, limit in self.limits:
                if cost.get(unit):
                    limit.record(now, cost[unit])
        return allowed

    def wait_s(self, now: float) -> float:
        """Seconds until an arrival of cost 1 would be within every limit, if nothing else comes."""
        return max(limit.wait_s(now) for _, limit in self.limits)


class OtherClients:
    """Other clients, who take their share of a limit in requests of cost 1, not quite in an even beat."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._next_at: float | None = None
        self.accepted = 0
        self.refused = 0

    def advance_to(self, now: float, per_second: float, limits: LimitSet) -> None:
        """Let those arrive who come at this pace and are due by now."""
        if per_second <= 0:
            self._next_at = None
            return
        due_at = now if self._next_at is None else self._next_at
        while due_at <= now:
            if limits.try_admit(due_at):
                self.accepted += 1
            else:
                self.refused += 1
            due_at += self._random.uniform(0.5, 1.5) / per_second
        self._next_at = due_at
