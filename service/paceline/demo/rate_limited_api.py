"""The state of the demo API and its responses: limits, counts, and changes while it runs."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from random import Random
from typing import Annotated, Protocol
from urllib.parse import parse_qsl

import msgspec

from paceline.demo.limits import DEFAULT_COST, MODES, LimitSet, OtherClients
from paceline.demo.options import ApiOptions, parse_jitter, parse_latency
from paceline.units import parse_duration

_MAX_KEPT_ARRIVALS = 100_000
_STALL_DELAY_S = 0.02
_REASON_PHRASES = {200: b"OK", 400: b"Bad Request", 405: b"Method Not Allowed", 429: b"Too Many Requests"}


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


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `POST /control` changes."""

    limit: Annotated[float, msgspec.Meta(gt=0)] | None = None
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    latency: str | None = None
    jitter: str | None = None
    stall: str | None = None


class ClosableConnection(Protocol):
    """A client's connection, as the API sees it."""

    def close_when_idle(self) -> None:
        """Close it once every request that it has taken is answered."""


class RateLimitedApi:
    """The API's state, shared by its connections."""

    def __init__(self, options: ApiOptions) -> None:
        self.options = options
        self.random = Random(options.seed)
        self.connections: set[ClosableConnection] = set()
        self.stats = Stats(options.limit, options.per_s)
        self.reset()

    def reset(self) -> None:
        """Forget every arrival; requests in flight stay in flight."""
        options = self.options
        new_limit = MODES[options.mode]
        self._primary_limit = new_limit(options.limit, options.per_s)
        extra = [(unit, new_limit(limit, per_s)) for limit, per_s, unit in options.extra_limits]
        self.limits = LimitSet([("requests", self._primary_limit), *extra], count_refused=options.count_refused)
        self.other_clients = OtherClients(self.random)
        in_flight = self.stats.in_flight
        self.stats = Stats(options.limit, options.per_s, in_flight=in_flight, in_flight_max=in_flight)

    def handle_request(self, path: str, query: str) -> bytes:
        """Count one arrival now and give the answer it gets."""
        now = time.perf_counter()
        stats, options = self.stats, self.options
        close_header = b"connection: close\r\n" if options.close_connections else b""
        self.other_clients.advance_to(now, options.share * options.limit / options.per_s, self.limits)
        if not self.limits.try_admit(now, _request_cost(query)):
            stats.refused += 1
            _append_bounded(stats.refusals, now)
            headers = close_header
            if options.retry_after:
                headers += b"retry-after: %d\r\n" % max(1, math.ceil(self.limits.wait_s(now)))
            return json_response(429, b'{"error":"rate limit exceeded"}', headers)
        stats.accepted += 1
        _append_bounded(stats.arrivals, now)
        if stats.first_at is None:
            stats.first_at = now
        stats.last_at = now
        return json_response(200, msgspec.json.encode({"path": path, "n": stats.accepted}), close_header)

    def handler_for(self, method: bytes, path: str) -> ControlHandler | None:
        """What `/stats`, `/reset` and `/control` do with a body; None for every other path."""
        handlers = {
            "/stats": (b"GET", self._handle_stats),
            "/reset": (b"POST", self._handle_reset),
            "/control": (b"POST", self._handle_control),
        }
        if path not in handlers:
            return None
        expected, handler = handlers[path]
        return handler if method == expected else lambda body: json_response(405, b"{}")

    def record_lag(self, lag_s: float) -> None:
        """Record how late a timer woke."""
        self.stats.late_max_s = max(self.stats.late_max_s, lag_s)

    def _handle_stats(self, body: bytes) -> bytes:
        current = self.stats
        current.connections = len(self.connections)
        current.others_accepted, current.others_refused = self.other_clients.accepted, self.other_clients.refused
        return json_response(200, msgspec.json.encode(current))

    def _handle_reset(self, body: bytes) -> bytes:
        self.reset()
        return json_response(200, b"{}")

    def _handle_control(self, body: bytes) -> bytes:
        try:
            control = msgspec.json.decode(body, type=Control)
            parsers = {"latency": parse_latency, "jitter": parse_jitter}
            changes = {name: value for name, value in msgspec.structs.asdict(control).items() if value is not None}
            stall_s = parse_duration(changes.pop("stall", "0s"))
            changes |= {name: parsers[name](changes[name]) for name in parsers if name in changes}
        except ValueError as error:  # msgspec's are too
            return json_response(400, msgspec.json.encode({"error": str(error)}))
        self.options = msgspec.structs.replace(self.options, **changes)
        self._primary_limit.limit = self.stats.limit = self.options.limit
        if stall_s:
            call_later(_STALL_DELAY_S, lambda: time.sleep(stall_s))
        return json_response(200, b"{}")


ControlHandler = Callable[[bytes], bytes]
"""From a request's body to the whole answer."""


def _request_cost(query: str) -> Mapping[str, float]:
    if "tokens=" not in query:
        return DEFAULT_COST
    tokens = dict(parse_qsl(query)).get("tokens", "")
    return {"requests": 1.0, "tokens": float(tokens) if tokens.isdecimal() else 0.0}


def _append_bounded(moments: list[float], now: float) -> None:
    moments.append(now)
    if len(moments) >= 2 * _MAX_KEPT_ARRIVALS:
        del moments[:_MAX_KEPT_ARRIVALS]


def json_response(status: int, body: bytes, headers: bytes = b"") -> bytes:
    """A whole HTTP/1.1 answer with a JSON body."""
    return b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b" % (
        status,
        _REASON_PHRASES[status],
        len(body),
        headers,
        body,
    )


def call_later(delay_s: float, callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(delay_s, callback)
