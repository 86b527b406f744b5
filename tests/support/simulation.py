"""A gate and a strict upstream in simulated time: no loop, no sockets, every delay drawn from a seeded source."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count
from math import inf

from paceline.admission.allowance import Allowance
from paceline.admission.budgets import WHOLE
from paceline.admission.gate import Gate
from paceline.admission.lineup import BatchFlow, Lane, Waiter
from paceline.model import ONE_REQUEST, Cost, Priority, Rate, Receipt, Verdict
from paceline.rate.rate_info import RateInfo, RateWindowInfo

Delay = Callable[[], float]


def nothing() -> float:
    return 0.0


class StrictUpstream:
    """Refuses whatever would be more than a limit in any stretch of its window, counted on arrival."""

    def __init__(self, rates: Sequence[Rate]) -> None:
        self.rates = rates
        self._seen: list[deque[tuple[float, float]]] = [deque() for _ in rates]
        self.refused = 0
        self.arrivals: list[float] = []

    def arrive(self, now: float, cost: Cost) -> bool:
        for rate, seen in zip(self.rates, self._seen, strict=True):
            while seen and seen[0][0] <= now - rate.per_s:
                seen.popleft()
            if sum(amount for _, amount in seen) + cost.get(rate.unit, 0.0) > rate.limit + 1e-9:
                self.refused += 1
                return False
        for rate, seen in zip(self.rates, self._seen, strict=True):
            if cost.get(rate.unit):
                seen.append((now, cost[rate.unit]))
        self.arrivals.append(now)
        return True


class FixedWindows(StrictUpstream):
    """Counts from zero again at every multiple of its window; can tell what is left in rate headers."""

    def __init__(self, rate: Rate) -> None:
        super().__init__([])
        self.rate = rate
        self.used = 0.0
        self.began_at = 0.0

    def arrive(self, now: float, cost: Cost) -> bool:
        began_at = now // self.rate.per_s * self.rate.per_s
        if began_at != self.began_at:
            self.began_at, self.used = began_at, 0.0
        amount = cost.get(self.rate.unit, 0.0)
        if self.used + amount > self.rate.limit:
            self.refused += 1
            return False
        self.used += amount
        self.arrivals.append(now)
        return True

    def told(self, now: float, *, length: bool = True) -> RateInfo:
        """Limit, remaining and the whole seconds to the reset, with the window's length unless it keeps that."""
        reset_s = float(int(self.began_at + self.rate.per_s - now))
        window = RateWindowInfo(
            "default",
            self.rate.unit,
            self.rate.limit,
            self.rate.limit - self.used,
            reset_s,
            self.rate.per_s if length else None,
            whole_seconds=True,
        )
        return RateInfo("ietf", windows=(window,))


class TokenBucketUpstream(StrictUpstream):
    """Holds `burst` tokens, full at first, and gains `limit` in each `per_s`."""

    def __init__(self, rate: Rate) -> None:
        super().__init__([])
        self.rate = rate
        self._tokens = rate.burst
        self._at = 0.0

    def arrive(self, now: float, cost: Cost) -> bool:
        rate = self.rate
        self._tokens = min(rate.burst, self._tokens + (now - self._at) * rate.per_second)
        self._at = now
        amount = cost.get(rate.unit, 0.0)
        if self._tokens < amount:
            self.refused += 1
            return False
        self._tokens -= amount
        self.arrivals.append(now)
        return True


class OtherClient:
    """Takes a part of the same upstream's limit: single requests, not quite in an even beat, never tried again."""

    def __init__(self, world: World, per_second: float, seed: int) -> None:
        self.arrivals: list[float] = []
        self.refused = 0
        self._world = world
        self._per_second = per_second
        self._random = random.Random(seed)
        world.at(world.now, self._call)

    def _call(self) -> None:
        world = self._world
        refused = world.upstream.refused
        if world.upstream.arrive(world.now, ONE_REQUEST):
            self.arrivals.append(world.upstream.arrivals.pop())
        else:
            self.refused += 1
            world.upstream.refused = refused
        world.at(world.now + self._random.uniform(0.5, 1.5) / self._per_second, self._call)


class World:
    """One gate before one upstream; offers, grants, writes, arrivals and answers happen in order of time."""

    def __init__(
        self,
        rates: Sequence[Rate],
        *,
        limit: float = inf,
        adaptive_limit: float = inf,
        sockets: Allowance | None = None,
        upstream: StrictUpstream | None = None,
        there: Delay = nothing,
        back: Delay = nothing,
        serve: Delay = nothing,
        write: Delay = nothing,
        timer_late: Delay = nothing,
        seed: int = 0,
    ) -> None:
        self.now = 100.0
        self.random = random.Random(seed)
        self.gate = Gate(
            rates,
            limit=limit,
            adaptive_limit=adaptive_limit,
            transit_s=0.05,
            max_pause_s=900.0,
            sockets=sockets or Allowance(),
            wake=lambda: self.at(self.now, self.look),
        )
        self.upstream = upstream or StrictUpstream(rates)
        self._there, self._back, self._serve, self._write = there, back, serve, write
        self._timer_late = timer_late
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = count()
        self._timer = inf
        self.written: list[float] = []
        self.granted: list[tuple[float, Waiter]] = []
        self.settled = 0
        self.most_in_flight = 0
        self.on_answer: Callable[[Waiter, Verdict], None] | None = None
        self.tell: Callable[[bool], RateInfo | None] = lambda taken: None
        """What the upstream's rate headers say on an answer, as it arrives there."""

    def at(self, moment: float, act: Callable[[], None]) -> None:
        heappush(self._events, (moment, next(self._sequence), act))

    def flow(
        self,
        priority: Priority = Priority.NORMAL,
        tenant: str = "t",
        lane: Lane = Lane.ADAPTIVE,
        own: Allowance | None = None,
        key: str = WHOLE,
        weight: float = 1.0,
    ) -> BatchFlow:
        return self.gate.open(lane, priority, tenant, own, key=key, weight=weight)

    def offer(self, flow: BatchFlow, cost: Cost = ONE_REQUEST, receipt: Receipt | None = None) -> Waiter:
        waiter = Waiter(flow, cost, receipt or Receipt(ready_at=self.now))
        if self.gate.offer(waiter, self.now):
            self.look()
        return waiter

    def withdraw(self, waiter: Waiter) -> None:
        self.gate.withdraw(waiter, self.now)
        self.look()

    def run(self, until: float = inf) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, act = heappop(self._events)
            act()
        if until < inf:
            self.now = max(self.now, until)

    def look(self) -> None:
        granted, again = self.gate.look(self.now)
        self.most_in_flight = max(self.most_in_flight, self.gate.in_flight)
        for waiter in granted:
            self.granted.append((self.now, waiter))
            self.at(self.now + self._write(), lambda waiter=waiter: self._written(waiter))
        if again < inf and again != self._timer:
            self._timer = again
            self.at(max(again, self.now) + self._timer_late(), lambda again=again: self._ring(again))

    def _ring(self, moment: float) -> None:
        if moment == self._timer:
            self._timer = inf
            self.look()

    def _written(self, waiter: Waiter) -> None:
        if self.gate.written(waiter, self.now):
            self.look()
        self.written.append(self.now)
        self.at(self.now + self._there(), lambda: self._arrived(waiter))

    def _arrived(self, waiter: Waiter) -> None:
        taken = self.upstream.arrive(self.now, waiter.cost)
        verdict = Verdict.SUCCESS if taken else Verdict.THROTTLED
        told = self.tell(taken)
        answered_at = self.now + (self._serve() if taken else 0.0) + self._back()
        self.at(answered_at, lambda: self._answered(waiter, verdict, told))

    def _answered(self, waiter: Waiter, verdict: Verdict, told: RateInfo | None) -> None:
        wait_s = told.retry_after_s if told is not None and verdict is Verdict.THROTTLED else None
        self.gate.settle(waiter, verdict, self.now, answered_at=self.now, reused=True, told=told, retry_after_s=wait_s)
        self.settled += 1
        if self.on_answer is not None:
            self.on_answer(waiter, verdict)
        if self.gate.ready or self._timer <= self.now:
            self.look()


def most_within(moments: Sequence[float], stretch_s: float) -> int:
    """The most of these moments in any half-open stretch of this length."""
    ordered = sorted(moments)
    most = first = 0
    for last, moment in enumerate(ordered):
        while moment - ordered[first] >= stretch_s:
            first += 1
        most = max(most, last - first + 1)
    return most
