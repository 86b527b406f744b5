"""An upstream whose responses the test scripts by path, on a real socket, on the test's own loop.

    async with ScriptedUpstream() as upstream:
        upstream.script_response("/x", status=503, times=2)  # then a plain 200, as for every path without a script
        upstream.script_response("/y", status=429, headers={"retry-after": "1"}, times=1)
        upstream.script_response("/y", json={"ok": True})  # from the second time on
        upstream.script("/z", truncate_body(after=10))  # anything that a socket can do

It records every request and the maximum in progress at once. A request is in progress from its last byte until it is
answered or its connection is closed. For bytes that are no response to a request see `support.raw_http_server`.
"""

from __future__ import annotations

import asyncio
import json as jsonlib
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

import httptools

from tools import tcp_reset
from tools.sliding_window import max_within
from tools.waiting import wait_until

ALWAYS = None
ANY_PATH = "*"
_REASONS = {200: "OK", 404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error"}


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request as it arrived; `at` is `time.perf_counter()` when its head was complete."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    at: float
    connection: int

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        """The first field of this name, in any case, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def json(self) -> Any:
        return jsonlib.loads(self.body)


Handler = Callable[[ReceivedRequest, "Peer"], Awaitable[None]]
"""What the upstream does about one request; it is cancelled when the connection goes."""


@dataclass(slots=True)
class _ScriptEntry:
    handler: Handler
    remaining: int | None


class ScriptedUpstream:
    """Serves on 127.0.0.1 while the context is open; `url` has no trailing slash."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.requests: list[ReceivedRequest] = []
        self.in_progress = 0
        self.in_progress_max = 0
        self.connections = 0
        self._host, self._tls = host, tls
        self._entries_by_path: dict[str, deque[_ScriptEntry]] = {}
        self._peers: set[Peer] = set()
        self._handler_errors: list[Exception] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), self._host, 0, ssl=self._tls, backlog=1024)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        peers = list(self._peers)
        for peer in peers:
            peer.abort()
        await asyncio.gather(*(peer.wait_finished() for peer in peers))
        await self._server.wait_closed()
        if self._handler_errors:
            raise self._handler_errors[0]

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._peers)

    def script_response(
        self,
        path: str = ANY_PATH,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        body: bytes | str = b"",
        json: Any = None,
        delay_s: float = 0.0,
        hold: asyncio.Event | None = None,
        times: int | None = ALWAYS,
    ) -> None:
        """Script a whole answer; earlier lines for the same path are used up first."""
        self.script(
            path,
            respond_with(status=status, headers=headers, body=body, json=json, delay_s=delay_s, hold=hold),
            times=times,
        )

    def script(self, path: str, handler: Handler, *, times: int | None = ALWAYS) -> None:
        """Script whatever `act` does with the connection."""
        self._entries_by_path.setdefault(path, deque()).append(_ScriptEntry(handler, times))

    def requests_to(self, path: str) -> list[ReceivedRequest]:
        return [request for request in self.requests if request.path == path]

    def max_requests_within(self, window_s: float) -> int:
        """The most requests that arrived in any stretch of this length (its end not counted)."""
        return max_within([request.at for request in self.requests], window_s)

    async def wait_until(self, condition: Callable[[Self], bool], *, timeout_s: float = 10.0) -> None:
        """Wait until the condition on this upstream holds.

        Raises:
            TimeoutError: it did not come true in time.
        """
        await wait_until(lambda: condition(self), timeout_s=timeout_s, interval_s=0.002)

    def _next_handler(self, path: str) -> Handler:
        for key in (path, ANY_PATH):
            lines = self._entries_by_path.get(key)
            if not lines:
                continue
            line = lines[0]
            if line.remaining is not None:
                line.remaining -= 1
                if line.remaining == 0:
                    lines.popleft()
            return line.handler
        return respond_with(json={"path": path})


@dataclass(slots=True)
class _Head:
    target: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    at: float = 0.0


class Peer(asyncio.Protocol):
    """One connection, as an act sees it. Its requests are served one at a time, in order."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._head = _Head()
        self._pending_requests: asyncio.Queue[ReceivedRequest] = asyncio.Queue()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by name
        self._upstream.connections += 1
        self.number = self._upstream.connections
        self._upstream._peers.add(self)
        self._serve_task = asyncio.get_running_loop().create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream._peers.discard(self)
        self._closed.set()
        self._serve_task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a fault of ours, not of the caller's bytes
        except httptools.HttpParserError:
            self.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def on_message_begin(self) -> None:
        self._head = _Head()

    def on_url(self, url: bytes) -> None:
        self._head.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._head.at = time.perf_counter()

    def on_body(self, body: bytes) -> None:
        self._head.body += body

    def on_message_complete(self) -> None:
        head = self._head
        method = self._parser.get_method().decode()
        request = ReceivedRequest(
            method, head.target.decode("latin-1"), tuple(head.headers), bytes(head.body), head.at, self.number
        )
        self._upstream.requests.append(request)
        self._pending_requests.put_nowait(request)

    def write(self, chunk: bytes) -> None:
        self._transport.write(chunk)

    async def drain(self) -> None:
        """Wait until the other side reads on."""
        await self._writable.wait()

    def close(self) -> None:
        """Send what is written, then close."""
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        tcp_reset.reset_connection(self._transport)

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, by either side."""
        await self._closed.wait()

    async def wait_finished(self) -> None:
        await self._closed.wait()
        await asyncio.wait([self._serve_task])

    async def _serve(self) -> None:
        upstream = self._upstream
        while True:
            request = await self._pending_requests.get()
            upstream.in_progress += 1
            upstream.in_progress_max = max(upstream.in_progress_max, upstream.in_progress)
            try:
                await upstream._next_handler(request.path)(request, self)
            except Exception as fault:
                upstream._handler_errors.append(fault)
                self.abort()
            finally:
                upstream.in_progress -= 1


def response_head(status: int, headers: Mapping[str, str] | None = None) -> bytes:
    """A status line and these fields, and nothing added."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Scripted')}\r\n{fields}\r\n".encode("latin-1")


def respond_with(
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    body: bytes | str = b"",
    json: Any = None,
    delay_s: float = 0.0,
    hold: asyncio.Event | None = None,
) -> Handler:
    """A whole answer, after `delay_s` and once `hold` is set."""
    fields = dict(headers or {})
    content = body.encode() if isinstance(body, str) else body
    if json is not None:
        content = jsonlib.dumps(json).encode()
        fields.setdefault("content-type", "application/json")
    if status not in (204, 304):
        fields.setdefault("content-length", str(len(content)))
    whole = response_head(status, fields)

    async def act(request: ReceivedRequest, peer: Peer) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        if hold is not None:
            await hold.wait()
        peer.write(whole if request.method == "HEAD" else whole + content)
        await peer.drain()

    return act


def send_raw(*chunks: bytes, close: bool = False) -> Handler:
    """These bytes exactly, then (if asked) the end of the connection."""

    async def act(request: ReceivedRequest, peer: Peer) -> None:
        for chunk in chunks:
            peer.write(chunk)
            await peer.drain()
        if close:
            peer.close()

    return act


def reset_connection(after: bytes = b"") -> Handler:
    """A TCP reset, by default before any byte of an answer."""

    async def act(request: ReceivedRequest, peer: Peer) -> None:
        if after:
            peer.write(after)
            await asyncio.sleep(0.02)  # let the bytes arrive: a reset overtakes what is unread
        peer.reset()
        await peer.wait_closed()

    return act


def disconnect() -> Handler:
    """An orderly close without an answer."""
    return send_raw(close=True)


def truncate_body(after: int = 10, length: int = 100) -> Handler:
    """A body that promises `length` bytes and ends with `after`."""
    return send_raw(response_head(200, {"content-length": str(length)}) + b"x" * after, close=True)


def send_garbage() -> Handler:
    """Bytes that are not HTTP."""
    return send_raw(b"\x00\x16\x03 this is not HTTP at all\r\n\r\n" * 4, close=True)


def never_respond() -> Handler:
    """No answer at all; the connection stays open until the caller gives up."""

    async def act(request: ReceivedRequest, peer: Peer) -> None:
        await peer.wait_closed()

    return act


def drip_body(every_s: float = 0.05, length: int = 1_000_000) -> Handler:
    """A whole head at once, then a body one byte at a time."""

    async def act(request: ReceivedRequest, peer: Peer) -> None:
        peer.write(response_head(200, {"content-length": str(length)}))
        for _ in range(length):
            peer.write(b"x")
            await asyncio.sleep(every_s)

    return act


def send_early_hints(every_s: float = 0.0) -> Handler:
    """103 after 103 and never an answer."""

    async def act(request: ReceivedRequest, peer: Peer) -> None:
        while True:
            peer.write(response_head(103, {"link": "</style.css>; rel=preload"}))
            await peer.drain()
            await asyncio.sleep(every_s)

    return act


def stream_forever(chunk: bytes = b"x" * 65_536, headers: Mapping[str, str] | None = None) -> Handler:
    """A chunked body without end, as fast as the caller reads."""
    frame = b"%x\r\n%b\r\n" % (len(chunk), chunk)

    async def act(request: ReceivedRequest, peer: Peer) -> None:
        peer.write(response_head(200, {"transfer-encoding": "chunked", **(headers or {})}))
        while True:
            peer.write(frame)
            await peer.drain()
            await asyncio.sleep(0)

    return act
