"""What the demo API knows and answers: its limits, what it counted, and how it is changed while it runs."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qsl

import msgspec

from paceline.cli.demo_limits import MODES, ONE, Counter, Others
from paceline.units import parse_duration

if TYPE_CHECKING:
    from paceline.cli.demo_wire import Connection

_KEPT_ARRIVALS = 100_000
_UNTIL_ANSWERED_S = 0.02
_REASONS = {200: b"OK", 400: b"Bad Request", 405: b"Method Not Allowed", 429: b"Too Many Requests"}


class Stats(msgspec.Struct):
    """What `GET /stats` answers. Moments are seconds on this machine's monotonic clock."""

    limit: float
    per_s: float
    accepted: int = 0
    refused: int = 0
    others_accepted: int = 0
    others_refused: int = 0
    first_at: float | None = None
    last_at: float | None = None
    in_flight: int = 0
    in_flight_max: int = 0
    connections: int = 0
    connections_made: int = 0
    late_max_s: float = 0.0
    """The longest that this program was kept from its work: what came meanwhile was counted so much later."""
    arrivals: list[float] = []
    """When each accepted request came; at least the latest 100,000."""
    refusals: list[float] = []
    """When each refused one came; likewise."""


class Span(msgspec.Struct, frozen=True):
    """A time drawn anew each time it is needed; seconds."""

    least_s: float = 0.0
    most_s: float = 0.0

    def draw(self, source: Random) -> float:
        return self.least_s if self.least_s == self.most_s else source.uniform(self.least_s, self.most_s)


class Options(msgspec.Struct, frozen=True):
    """How the API behaves."""

    limit: float
    per_s: float
    mode: str = "sliding"
    also: tuple[tuple[float, float, str], ...] = ()
    """More limits: how much, in how many seconds, of which unit; of the same mode."""
    latency: Span = Span()
    jitter: Span = Span()
    """On the way there, and again on the way back."""
    share: float = 0.0
    """How much of the first limit other clients take."""
    retry_after: bool = False
    count_refused: bool = False
    close: bool = False
    """Each answer ends its connection."""
    seed: int | None = None


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `POST /control` changes."""

    limit: Annotated[float, msgspec.Meta(gt=0)] | None = None
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    latency: str | None = None
    jitter: str | None = None
    stall: str | None = None


class DemoUpstream:
    """The API's state, shared by its connections."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.draw = Random(options.seed)
        self.connections: set[Connection] = set()
        self.stats = Stats(options.limit, options.per_s)
        self.reset()

    def reset(self) -> None:
        """Forget every arrival; requests in flight stay in flight."""
        options = self.options
        made = MODES[options.mode]
        self._first = made(options.limit, options.per_s)
        more = [(unit, made(limit, per_s)) for limit, per_s, unit in options.also]
        self.counter = Counter([("requests", self._first), *more], count_refused=options.count_refused)
        self.others = Others(self.draw)
        flying = self.stats.in_flight
        self.stats = Stats(options.limit, options.per_s, in_flight=flying, in_flight_max=flying)

    def count(self, path: str, query: str) -> bytes:
        """Count one arrival now and give the answer it gets."""
        now = time.perf_counter()
        stats, options = self.stats, self.options
        last = b"connection: close\r\n" if options.close else b""
        self.others.until(now, options.share * options.limit / options.per_s, self.counter)
        if not self.counter.arrive(now, _cost(query)):
            stats.refused += 1
            _keep(stats.refusals, now)
            extra = last
            if options.retry_after:
                extra += b"retry-after: %d\r\n" % max(1, math.ceil(self.counter.wait_s(now)))
            return answer(429, b'{"error":"rate limit exceeded"}', extra)
        stats.accepted += 1
        _keep(stats.arrivals, now)
        if stats.first_at is None:
            stats.first_at = now
        stats.last_at = now
        return answer(200, msgspec.json.encode({"path": path, "n": stats.accepted}), last)

    def own(self, method: bytes, path: str) -> Own | None:
        """What `/stats`, `/reset` and `/control` do with a body; None for every other path."""
        known = {"/stats": (b"GET", self._tell), "/reset": (b"POST", self._forget), "/control": (b"POST", self._change)}
        if path not in known:
            return None
        expected, act = known[path]
        return act if method == expected else lambda body: answer(405, b"{}")

    def late(self, by_s: float) -> None:
        """A timer woke so late."""
        self.stats.late_max_s = max(self.stats.late_max_s, by_s)

    def _tell(self, body: bytes) -> bytes:
        current = self.stats
        current.connections = len(self.connections)
        current.others_accepted, current.others_refused = self.others.accepted, self.others.refused
        return answer(200, msgspec.json.encode(current))

    def _forget(self, body: bytes) -> bytes:
        self.reset()
        return answer(200, b"{}")

    def _change(self, body: bytes) -> bytes:
        try:
            told = msgspec.json.decode(body, type=Control)
            read = {"latency": latency, "jitter": jitter}
            changes = {name: value for name, value in msgspec.structs.asdict(told).items() if value is not None}
            stall_s = parse_duration(changes.pop("stall", "0s"))
            changes |= {name: read[name](changes[name]) for name in read if name in changes}
        except ValueError as error:  # msgspec's are too
            return answer(400, msgspec.json.encode({"error": str(error)}))
        self.options = msgspec.structs.replace(self.options, **changes)
        self._first.limit = self.stats.limit = self.options.limit
        if stall_s:
            later(_UNTIL_ANSWERED_S, lambda: time.sleep(stall_s))
        return answer(200, b"{}")


Own = Callable[[bytes], bytes]
"""From a request's body to the whole answer."""


def _cost(query: str) -> Mapping[str, float]:
    if "tokens=" not in query:
        return ONE
    tokens = dict(parse_qsl(query)).get("tokens", "")
    return {"requests": 1.0, "tokens": float(tokens) if tokens.isdecimal() else 0.0}


def _keep(moments: list[float], now: float) -> None:
    moments.append(now)
    if len(moments) >= 2 * _KEPT_ARRIVALS:
        del moments[:_KEPT_ARRIVALS]


def latency(text: str) -> Span:
    """`20ms`, or `100ms..800ms`.

    Raises:
        ValueError: anything else.
    """
    least, _, most = text.partition("..")
    span = Span(parse_duration(least), parse_duration(most or least))
    if span.most_s < span.least_s:
        raise ValueError("ends before it begins; write the shorter time first")
    return span


def jitter(text: str) -> Span:
    """`5ms` is 0 to 5 ms; else as `latency`."""
    span = latency(text)
    return span if ".." in text else Span(0.0, span.most_s)


def answer(status: int, body: bytes, extra: bytes = b"") -> bytes:
    """A whole HTTP/1.1 answer with a JSON body."""
    return b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b" % (
        status,
        _REASONS[status],
        len(body),
        extra,
        body,
    )


def later(delay_s: float, then: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(delay_s, then)
