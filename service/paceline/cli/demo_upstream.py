"""A real rate-limited HTTP/1.1 API to call: a strict sliding window over arrivals, 429 above it.

    python -m paceline.cli.demo_upstream --limit 50 --per 1s --latency 20ms

Prints `listening on http://127.0.0.1:PORT` once it serves. A request is counted when its head is complete; a
refused one is not counted unless `--count-refused`. `GET /stats` and `POST /reset` are never counted.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import signal
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import httptools
import msgspec
import uvloop

from paceline.units import parse_duration

_KEPT_ARRIVALS = 100_000
_GRACE_S = 5.0
_REASONS = {200: b"OK", 405: b"Method Not Allowed", 429: b"Too Many Requests"}


class SlidingWindow:
    """At most `limit` arrivals in any stretch of `per_s`; an arrival leaves exactly `per_s` after it came."""

    __slots__ = ("_counted", "count_refused", "limit", "per_s")

    def __init__(self, limit: int, per_s: float, *, count_refused: bool = False) -> None:
        self.limit = limit
        self.per_s = per_s
        self.count_refused = count_refused
        self._counted: deque[float] = deque()

    def arrive(self, now: float) -> bool:
        """Whether an arrival at `now` is within the limit; it is counted if so."""
        counted = self._counted
        while counted and now - counted[0] >= self.per_s:
            counted.popleft()
        allowed = len(counted) < self.limit
        if allowed or self.count_refused:
            counted.append(now)
        return allowed

    def wait_s(self, now: float) -> float:
        """Seconds until an arrival would be within the limit, if nothing else comes."""
        over = len(self._counted) - self.limit
        return max(0.0, self._counted[over] + self.per_s - now) if over >= 0 else 0.0


class Stats(msgspec.Struct):
    """What `GET /stats` answers. Moments are seconds on this machine's monotonic clock."""

    limit: int
    per_s: float
    accepted: int = 0
    refused: int = 0
    first_at: float | None = None
    last_at: float | None = None
    in_flight: int = 0
    in_flight_max: int = 0
    connections: int = 0
    arrivals: list[float] = []
    """When each accepted request came; at least the latest 100,000."""


class Options(msgspec.Struct, frozen=True):
    """How the API behaves; seconds."""

    limit: int
    per_s: float
    latency_s: float = 0.0
    jitter_s: float = 0.0
    retry_after: bool = False
    count_refused: bool = False


class DemoUpstream:
    """The API's state, shared by its connections."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.connections: set[Connection] = set()
        self.window = SlidingWindow(options.limit, options.per_s, count_refused=options.count_refused)
        self.stats = Stats(options.limit, options.per_s)

    def reset(self) -> None:
        """Forget every arrival; requests in flight stay in flight."""
        options, flying = self.options, self.stats.in_flight
        self.window = SlidingWindow(options.limit, options.per_s, count_refused=options.count_refused)
        self.stats = Stats(options.limit, options.per_s, in_flight=flying, in_flight_max=flying)

    def count(self, path: str) -> bytes:
        """Count one arrival now and give the answer it gets."""
        now = time.perf_counter()
        stats = self.stats
        if not self.window.arrive(now):
            stats.refused += 1
            extra = b""
            if self.options.retry_after:
                extra = b"retry-after: %d\r\n" % max(1, math.ceil(self.window.wait_s(now)))
            return answer(429, b'{"error":"rate limit exceeded"}', extra)
        stats.accepted += 1
        stats.arrivals.append(now)
        if len(stats.arrivals) >= 2 * _KEPT_ARRIVALS:
            del stats.arrivals[:_KEPT_ARRIVALS]
        if stats.first_at is None:
            stats.first_at = now
        stats.last_at = now
        return answer(200, msgspec.json.encode({"path": path, "n": stats.accepted}))

    def own(self, method: bytes, path: str) -> bytes | None:
        """The answer of `/stats` and `/reset`; None for every other path."""
        if path == "/stats":
            current = self.stats
            current.connections = len(self.connections)
            return answer(200, msgspec.json.encode(current)) if method == b"GET" else answer(405, b"{}")
        if path == "/reset":
            if method != b"POST":
                return answer(405, b"{}")
            self.reset()
            return answer(200, b"{}")
        return None


class _Call:
    """One request's place in its connection's line of answers."""

    __slots__ = ("complete", "head_only", "own", "ready")

    def __init__(self, *, head_only: bool, own: bytes | None) -> None:
        self.head_only = head_only
        self.own = own is not None
        self.ready = own
        self.complete = False


class Connection(asyncio.Protocol):
    """Parses one connection's requests and answers them in order, however they were delayed."""

    def __init__(self, upstream: DemoUpstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._line: deque[_Call] = deque()
        self._url = b""
        self._last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._upstream.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.connections.discard(self)
        self._upstream.stats.in_flight -= sum(not call.own for call in self._line)
        self._line.clear()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a fault of ours, not of the caller's bytes
        except httptools.HttpParserError:
            self._transport.abort()

    def pause_writing(self) -> None:
        # A caller that pipelines and does not read is not read from either.
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def on_message_begin(self) -> None:
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:
        method = self._parser.get_method()
        path = self._url.partition(b"?")[0].decode("latin-1")
        call = _Call(head_only=method == b"HEAD", own=self._upstream.own(method, path))
        self._line.append(call)
        if call.own:
            return
        stats = self._upstream.stats
        stats.in_flight += 1
        stats.in_flight_max = max(stats.in_flight_max, stats.in_flight)
        options = self._upstream.options
        if options.jitter_s:
            _later(random.random() * options.jitter_s, lambda: self._count(call, path))
        else:
            self._count(call, path)

    def on_message_complete(self) -> None:
        self._line[-1].complete = True
        if not self._parser.should_keep_alive():
            self._last = True
        self._flush()

    def close_when_idle(self) -> None:
        self._last = True
        if not self._line:
            self._transport.close()

    def _count(self, call: _Call, path: str) -> None:
        content = self._upstream.count(path)
        options = self._upstream.options
        delay_s = options.latency_s
        if options.jitter_s:
            delay_s += random.random() * options.jitter_s
        if delay_s:
            _later(delay_s, lambda: self._give(call, content))
        else:
            call.ready = content

    def _give(self, call: _Call, content: bytes) -> None:
        call.ready = content
        self._flush()

    def _flush(self) -> None:
        """Write every answer that is ready and whose turn it is."""
        line = self._line
        while line and line[0].complete and (content := line[0].ready) is not None:
            call = line.popleft()
            if call.head_only:
                content = content[: content.index(b"\r\n\r\n") + 4]
            if not call.own:
                self._upstream.stats.in_flight -= 1
            self._transport.write(content)
        if self._last and not line:
            self._transport.close()


def answer(status: int, body: bytes, extra: bytes = b"") -> bytes:
    """A whole HTTP/1.1 answer with a JSON body."""
    return b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b" % (
        status,
        _REASONS[status],
        len(body),
        extra,
        body,
    )


def _later(delay_s: float, then: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(delay_s, then)


async def serve(options: Options, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is in flight and return."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    upstream = DemoUpstream(options)
    server = await loop.create_server(lambda: Connection(upstream), host, port, ssl=tls, backlog=2048)
    bound = server.sockets[0].getsockname()[1]
    print(f"listening on {'https' if tls else 'http'}://{host}:{bound}", flush=True)
    await stop.wait()
    server.close()
    for connection in list(upstream.connections):
        connection.close_when_idle()
    give_up = time.perf_counter() + _GRACE_S
    while upstream.connections and time.perf_counter() < give_up:  # noqa: ASYNC110 - the exit is not hot
        await asyncio.sleep(0.01)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m paceline.cli.demo_upstream", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--limit", type=int, default=50, help="requests in any stretch of --per")
    parser.add_argument("--per", type=_seconds, default=1.0)
    parser.add_argument("--latency", type=_seconds, default=0.0, help="each answer takes this long")
    parser.add_argument("--jitter", type=_seconds, default=0.0, help="0 to this, on the way there and back")
    parser.add_argument("--retry-after", action="store_true", help="a refusal says when to come back")
    parser.add_argument("--count-refused", action="store_true", help="a refused request counts too")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="serve https with these PEM files")
    given = parser.parse_args(argv)
    if given.limit < 1 or given.per <= 0:
        parser.error("--limit and --per must be above zero")
    tls = None
    if given.tls:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*given.tls)
    options = Options(given.limit, given.per, given.latency, given.jitter, given.retry_after, given.count_refused)
    uvloop.run(serve(options, given.host, given.port, tls))


if __name__ == "__main__":
    main()
