"""A server of N slots with a queue, and a backlogged caller with a concurrency limit, in simulated time.

The server answers first come first served; each request needs `service(now)` seconds of a slot, so when it will be
done is known as it is sent. It may stop for a while (`pause`), and a scenario may change its slots or its service time
while it runs. The caller keeps as many in flight as its limit (and its demand) allows, and reports each response to the
limit as the gate would: the whole time from the write to the last byte.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from statistics import median
from typing import NamedTuple, Protocol

ServiceTime = Callable[[float], float]


class Limit(Protocol):
    """What the caller goes by."""

    limit: int

    def sample(self, latency_s: float, in_flight: int, now: float, dropped: bool = False) -> None: ...


class FixedLimit:
    """A limit that never learns."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def sample(self, latency_s: float, in_flight: int, now: float, dropped: bool = False) -> None:
        pass


class QueueingServer:
    """`slots` at once, the rest waits; stands still for `pause[1]` seconds every `pause[0]`."""

    def __init__(
        self, slots: float, service: ServiceTime, pause: tuple[float, float] | None = None, network_s: float = 0.0005
    ) -> None:
        self.network_s = network_s
        self._service, self._pause = service, pause
        self._free_at: list[float] | None = None if slots == inf else [0.0] * int(slots)
        """When each slot has no more to do; None is no end of slots."""

    def resize(self, slots: int, now: float) -> None:
        """Change the number of slots for what is sent from now on."""
        free_at = self._free_at
        assert free_at is not None
        while len(free_at) < slots:
            heappush(free_at, now)
        while len(free_at) > slots:
            heappop(free_at)

    def answered_at(self, sent_at: float) -> float:
        """When a request sent now is answered; to be asked in the order they are sent."""
        begins_at = sent_at + self.network_s
        if self._free_at is None:
            return self.done_at(begins_at, self._service(begins_at)) + self.network_s
        begins_at = max(begins_at, heappop(self._free_at))
        done_at = self.done_at(begins_at, self._service(begins_at))
        heappush(self._free_at, done_at)
        return done_at + self.network_s

    def done_at(self, now: float, work_s: float) -> float:
        """When work that starts now is done, without pauses."""
        if self._pause is None:
            return now + work_s
        every, lasts = self._pause
        round_, into = divmod(now, every)
        worked = round_ * (every - lasts) + max(0.0, into - lasts) + work_s
        rounds, rest = divmod(worked, every - lasts)
        return max(now, rounds * every + lasts + rest)


class Completion(NamedTuple):
    at: float
    latency_s: float
    limit: int
    dropped: bool = False


def _at(answer: Completion) -> float:
    return answer.at


@dataclass
class CallerTrace:
    """What one caller saw, in order of time."""

    completions: list[Completion]

    def between(self, since: float, until: float) -> list[Completion]:
        first, last = (bisect_left(self.completions, moment, key=_at) for moment in (since, until))
        return [answer for answer in self.completions[first:last] if not answer.dropped]

    def rate(self, since: float, until: float) -> float:
        return len(self.between(since, until)) / (until - since)

    def median_s(self, since: float, until: float) -> float:
        return median(answer.latency_s for answer in self.between(since, until))

    def lowest_limit(self, since: float) -> int:
        """The lowest limit from a moment on."""
        return min(answer.limit for answer in self.completions if answer.at >= since)

    def mean_limit(self, since: float) -> float:
        """As the answers saw it."""
        seen = [answer.limit for answer in self.completions if answer.at >= since]
        return sum(seen) / len(seen)

    def settling_time_s(
        self, change: float, until: float, rate: float, median_s: float, window_s: float = 3.0
    ) -> float:
        """Seconds after a change from which on every stretch brings this rate within this median; inf if never."""
        settled = inf
        since = until - window_s
        while since >= change:
            if self.rate(since, since + window_s) < rate or self.median_s(since, since + window_s) > median_s:
                break
            settled = since - change
            since -= 0.25
        return settled


def simulate(
    limit: Limit,
    server: QueueingServer,
    until: float,
    *,
    demand: Callable[[float], float] = lambda now: inf,
    changes: Sequence[tuple[float, Callable[[QueueingServer, float], None]]] = (),
    timeout_s: float = inf,
) -> CallerTrace:
    """Keep the server as busy as limit and demand allow until the time is up."""
    in_flight: list[tuple[float, float, int, bool]] = []
    trace = CallerTrace([])
    pending_changes = sorted(changes, key=lambda change: change[0], reverse=True)
    tick_s = min(1.0, until / 50)
    next_tick_at = 0.0
    while True:
        now = min(
            next_tick_at, pending_changes[-1][0] if pending_changes else inf, in_flight[0][0] if in_flight else inf
        )
        if now > until:
            return trace
        if in_flight and in_flight[0][0] == now:
            _, sent_at, in_flight_at_send, dropped = heappop(in_flight)
            before = limit.limit
            limit.sample(now - sent_at, in_flight_at_send, now, dropped)
            trace.completions.append(Completion(now, now - sent_at, before, dropped))
        elif pending_changes and pending_changes[-1][0] == now:
            pending_changes.pop()[1](server, now)
        else:
            next_tick_at += tick_s
        allowed = min(limit.limit, demand(now))
        while len(in_flight) < allowed:
            answered_at = server.answered_at(now)
            over_at = min(answered_at, now + timeout_s)
            heappush(in_flight, (over_at, now, len(in_flight) + 1, over_at < answered_at))
