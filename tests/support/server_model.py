"""A server of N slots with a queue, and a backlogged caller with a concurrency limit, in simulated time.

The server answers first come first served; each request needs `service(now)` seconds of a slot. It may stop for a
while by itself (`pause`), and a scenario may change its slots or its service time while it runs. The caller keeps as
many in flight as its limit (and its demand) allows and tells the limit of each answer, as the gate would.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf
from statistics import median
from typing import Protocol

Service = Callable[[float], float]


class Limit(Protocol):
    """What the caller goes by."""

    limit: int

    def sample(self, latency_s: float, in_flight: int, now: float, dropped: bool = False) -> None: ...


class Fixed:
    """A limit that never learns."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def sample(self, latency_s: float, in_flight: int, now: float, dropped: bool = False) -> None:
        pass


@dataclass
class Server:
    """`slots` at once, the rest waits; stands still for `pause[1]` seconds every `pause[0]`."""

    slots: float
    service: Service
    pause: tuple[float, float] | None = None
    network_s: float = 0.0005
    busy: int = 0

    def done_at(self, now: float, work_s: float) -> float:
        """When work begun now is done, standing still left out."""
        if self.pause is None:
            return now + work_s
        every, lasts = self.pause
        round_, into = divmod(now, every)
        worked = round_ * (every - lasts) + max(0.0, into - lasts) + work_s
        rounds, rest = divmod(worked, every - lasts)
        return max(now, rounds * every + lasts + rest)


@dataclass
class Answer:
    at: float
    latency_s: float
    limit: int
    dropped: bool = False


@dataclass
class Run:
    """What one caller saw."""

    answers: list[Answer]

    def between(self, since: float, until: float) -> list[Answer]:
        return [answer for answer in self.answers if since <= answer.at < until and not answer.dropped]

    def rate(self, since: float, until: float) -> float:
        return len(self.between(since, until)) / (until - since)

    def median_s(self, since: float, until: float) -> float:
        return median(answer.latency_s for answer in self.between(since, until))

    def lowest(self, since: float) -> int:
        """The lowest limit from a moment on."""
        return min(answer.limit for answer in self.answers if answer.at >= since)

    def mean_limit(self, since: float) -> float:
        """As the answers saw it."""
        seen = [answer.limit for answer in self.answers if answer.at >= since]
        return sum(seen) / len(seen)

    def settled_after(self, change: float, until: float, rate: float, median_s: float, stretch_s: float = 3.0) -> float:
        """Seconds after a change from which on every stretch brings this rate within this median; inf if never."""
        settled = inf
        since = until - stretch_s
        while since >= change:
            if self.rate(since, since + stretch_s) < rate or self.median_s(since, since + stretch_s) > median_s:
                break
            settled = since - change
            since -= 0.25
        return settled


def drive(
    limit: Limit,
    server: Server,
    until: float,
    *,
    demand: Callable[[float], float] = lambda now: inf,
    changes: Sequence[tuple[float, Callable[[Server], None]]] = (),
    timeout_s: float = inf,
) -> Run:
    """Keep the server as busy as limit and demand allow until the time is up."""
    events: list[tuple[float, int, Callable[[], None]]] = []
    order = count()
    now = 0.0
    in_flight = 0
    run = Run([])

    def at(moment: float, act: Callable[[], None]) -> None:
        heappush(events, (moment, next(order), act))

    waiting: deque[Callable[[], None]] = deque()

    def serve() -> None:
        while waiting and server.busy < server.slots:
            server.busy += 1
            waiting.popleft()()

    def send() -> None:
        nonlocal in_flight
        while in_flight < min(limit.limit, demand(now)):
            in_flight += 1
            request(now, in_flight)

    def request(sent: float, with_others: int) -> None:
        over = False

        def end(dropped: bool) -> None:
            nonlocal in_flight, over
            if over:
                return
            over = True
            in_flight -= 1
            before = limit.limit
            limit.sample(now - sent, with_others, now, dropped)
            run.answers.append(Answer(now, now - sent, before, dropped))
            send()

        def begin() -> None:
            at(server.done_at(now, server.service(now)), finish)

        def finish() -> None:
            server.busy -= 1
            at(now + server.network_s, lambda: end(False))
            serve()

        def arrive() -> None:
            waiting.append(begin)
            serve()

        at(sent + server.network_s, arrive)
        if timeout_s < inf:
            at(sent + timeout_s, lambda: end(True))

    def change(alter: Callable[[Server], None]) -> None:
        alter(server)
        serve()

    for moment, alter in changes:
        at(moment, partial(change, alter))
    tick = min(1.0, until / 50)

    def look() -> None:
        send()
        at(now + tick, look)

    look()
    while events and events[0][0] <= until:
        now, _, act = heappop(events)
        act()
    return run
