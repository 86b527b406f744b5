"""A gate and a strict upstream in simulated time: no loop, no sockets, every delay drawn from a seeded source."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count
from math import inf

from paceline.admission.budget_table import DEFAULT_KEY
from paceline.admission.gate import Gate
from paceline.admission.lane import Lane
from paceline.admission.lane_queue import BatchFlow, Waiter
from paceline.admission.permit_pool import PermitPool
from paceline.model import ONE_REQUEST, Cost, Priority, Rate, Receipt, Verdict
from paceline.rate.rate_info import RateInfo, RateWindowInfo

Delay = Callable[[], float]


def no_delay() -> float:
    return 0.0


class StrictUpstream:
    """Refuses whatever would be more than a limit in any stretch of its window, counted on arrival."""

    def __init__(self, rates: Sequence[Rate]) -> None:
        self.rates = rates
        self._recent_by_rate: list[deque[tuple[float, float]]] = [deque() for _ in rates]
        self.refused = 0
        self.arrivals: list[float] = []

    def arrive(self, now: float, cost: Cost) -> bool:
        for rate, recent in zip(self.rates, self._recent_by_rate, strict=True):
            while recent and recent[0][0] <= now - rate.per_s:
                recent.popleft()
            if sum(amount for _, amount in recent) + cost.get(rate.unit, 0.0) > rate.limit + 1e-9:
                self.refused += 1
                return False
        for rate, recent in zip(self.rates, self._recent_by_rate, strict=True):
            if cost.get(rate.unit):
                recent.append((now, cost[rate.unit]))
        self.arrivals.append(now)
        return True


class FixedWindowUpstream(StrictUpstream):
    """Counts from zero again at every multiple of its window; can tell what is left in rate headers."""

    def __init__(self, rate: Rate) -> None:
        super().__init__([])
        self.rate = rate
        self.used = 0.0
        self.window_start = 0.0

    def arrive(self, now: float, cost: Cost) -> bool:
        window_start = now // self.rate.per_s * self.rate.per_s
        if window_start != self.window_start:
            self.window_start, self.used = window_start, 0.0
        amount = cost.get(self.rate.unit, 0.0)
        if self.used + amount > self.rate.limit:
            self.refused += 1
            return False
        self.used += amount
        self.arrivals.append(now)
        return True

    def rate_info(self, now: float, *, include_window: bool = True) -> RateInfo:
        """Limit, remaining and the whole seconds to the reset, with the window's length unless it keeps that."""
        reset_s = float(int(self.window_start + self.rate.per_s - now))
        window = RateWindowInfo(
            "default",
            self.rate.unit,
            self.rate.limit,
            self.rate.limit - self.used,
            reset_s,
            self.rate.per_s if include_window else None,
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

    def __init__(self, simulation: GateSimulation, per_second: float, seed: int) -> None:
        self.arrivals: list[float] = []
        self.refused = 0
        self._simulation = simulation
        self._per_second = per_second
        self._random = random.Random(seed)
        simulation.schedule(simulation.now, self._call)

    def _call(self) -> None:
        simulation = self._simulation
        refused = simulation.upstream.refused
        if simulation.upstream.arrive(simulation.now, ONE_REQUEST):
            self.arrivals.append(simulation.upstream.arrivals.pop())
        else:
            self.refused += 1
            simulation.upstream.refused = refused
        simulation.schedule(simulation.now + self._random.uniform(0.5, 1.5) / self._per_second, self._call)


class GateSimulation:
    """One gate before one upstream; offers, grants, writes, arrivals and answers happen in order of time."""

    def __init__(
        self,
        rates: Sequence[Rate],
        *,
        limit: float = inf,
        adaptive_limit: float = inf,
        socket_pool: PermitPool | None = None,
        upstream: StrictUpstream | None = None,
        request_delay: Delay = no_delay,
        response_delay: Delay = no_delay,
        service_delay: Delay = no_delay,
        write_delay: Delay = no_delay,
        timer_delay: Delay = no_delay,
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
            socket_pool=socket_pool or PermitPool(),
            request_dispatch=lambda: self.schedule(self.now, self.dispatch),
        )
        self.upstream = upstream or StrictUpstream(rates)
        self._request_delay, self._response_delay, self._service_delay, self._write_delay = (
            request_delay,
            response_delay,
            service_delay,
            write_delay,
        )
        self._timer_delay = timer_delay
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = count()
        self._timer_at = inf
        self.written: list[float] = []
        self.granted: list[tuple[float, Waiter]] = []
        self.settled_count = 0
        self.max_in_flight = 0
        self.on_response: Callable[[Waiter, Verdict], None] | None = None
        self.rate_info_for: Callable[[bool], RateInfo | None] = lambda taken: None
        """What the upstream's rate headers say on an answer, as it arrives there."""

    def schedule(self, at: float, callback: Callable[[], None]) -> None:
        heappush(self._events, (at, next(self._sequence), callback))

    def open_flow(
        self,
        priority: Priority = Priority.NORMAL,
        tenant: str = "t",
        lane: Lane = Lane.ADAPTIVE,
        batch_pool: PermitPool | None = None,
        key: str = DEFAULT_KEY,
        weight: float = 1.0,
    ) -> BatchFlow:
        return self.gate.open_flow(lane, priority, tenant, batch_pool, key=key, weight=weight)

    def offer(self, flow: BatchFlow, cost: Cost = ONE_REQUEST, receipt: Receipt | None = None) -> Waiter:
        waiter = Waiter(flow, cost, receipt or Receipt(ready_at=self.now))
        if self.gate.offer(waiter, self.now):
            self.dispatch()
        return waiter

    def withdraw(self, waiter: Waiter) -> None:
        self.gate.withdraw(waiter, self.now)
        self.dispatch()

    def run(self, until: float = inf) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, act = heappop(self._events)
            act()
        if until < inf:
            self.now = max(self.now, until)

    def dispatch(self) -> None:
        granted, next_wakeup_at = self.gate.dispatch(self.now)
        self.max_in_flight = max(self.max_in_flight, self.gate.in_flight)
        for waiter in granted:
            self.granted.append((self.now, waiter))
            self.schedule(self.now + self._write_delay(), lambda waiter=waiter: self._on_written(waiter))
        if next_wakeup_at < inf and next_wakeup_at != self._timer_at:
            self._timer_at = next_wakeup_at
            self.schedule(
                max(next_wakeup_at, self.now) + self._timer_delay(), lambda again=next_wakeup_at: self._on_timer(again)
            )

    def _on_timer(self, moment: float) -> None:
        if moment == self._timer_at:
            self._timer_at = inf
            self.dispatch()

    def _on_written(self, waiter: Waiter) -> None:
        if self.gate.mark_written(waiter, self.now):
            self.dispatch()
        self.written.append(self.now)
        self.schedule(self.now + self._request_delay(), lambda: self._on_arrival(waiter))

    def _on_arrival(self, waiter: Waiter) -> None:
        accepted = self.upstream.arrive(self.now, waiter.cost)
        verdict = Verdict.SUCCESS if accepted else Verdict.THROTTLED
        rate_info = self.rate_info_for(accepted)
        answered_at = self.now + (self._service_delay() if accepted else 0.0) + self._response_delay()
        self.schedule(answered_at, lambda: self._on_response(waiter, verdict, rate_info))

    def _on_response(self, waiter: Waiter, verdict: Verdict, rate_info: RateInfo | None) -> None:
        wait_s = rate_info.retry_after_s if rate_info is not None and verdict is Verdict.THROTTLED else None
        self.gate.settle(
            waiter, verdict, self.now, answered_at=self.now, reused=True, rate_info=rate_info, retry_after_s=wait_s
        )
        self.settled_count += 1
        if self.on_response is not None:
            self.on_response(waiter, verdict)
        if self.gate.has_ready_queue or self._timer_at <= self.now:
            self.dispatch()
