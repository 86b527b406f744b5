"""A proxy between Paceline and an upstream that breaks connections where a test says.

    async with FaultProxy(upstream.port) as proxy:
        await proxy.inject(Fault.RESET, Phase.BODY)  # half of each body arrives, then a TCP reset
        ...
        await proxy.clear()  # from now on everything passes

A fault strikes every connection that reaches its phase, until it is lifted; what was broken stays broken. The phases:

    connect   before the connection is taken; what shapes the flow (jitter, bandwidth) then holds for all of it
    tls       the upstream's first flight of a TLS handshake, which passes through the proxy untouched
    headers   the head of an answer; seen, like what follows, where the upstream speaks plain HTTP with a Content-Length
    body      the content of an answer
    idle      while at rest after a whole answer; what shapes the flow then holds for the answers that follow

Latency holds a phase's bytes back as a whole, jitter each piece of them; bandwidth lets them through piece by piece.
The others let half of the phase pass. Then reset and truncated end the connection, with RST and with FIN; slow close
lets nothing more through and ends it after `delay_s`; black hole lets nothing more through and ends nothing; down
resets it and refuses every connection that follows.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple, Self

from tools.tcp_reset import reset_when_closed
from tools.waiting import wait_until

CHUNK_BYTES = 16
"""Bytes that pass at once where the flow is shaped."""

DELIVERY_GRACE_S = 0.02
"""What was let through is given this long to be read: a reset may overtake it."""

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_TLS = 0x16


class Fault(StrEnum):
    LATENCY = "latency"
    JITTER = "jitter"
    BANDWIDTH = "bandwidth"
    RESET = "reset"
    BLACK_HOLE = "black hole"
    SLOW_CLOSE = "slow close"
    TRUNCATED = "truncated"
    DOWN = "down"


class Phase(StrEnum):
    CONNECT = "connect"
    TLS = "tls"
    HEADERS = "headers"
    BODY = "body"
    IDLE = "idle"


SHAPING = frozenset({Fault.LATENCY, Fault.JITTER, Fault.BANDWIDTH})
"""The faults that everything passes, only later."""


class _InjectedFault(NamedTuple):
    fault: Fault
    phase: Phase
    delay_s: float
    bytes_per_s: float


class FaultProxy:
    """Listens on 127.0.0.1 while the context is open and passes connections on to `upstream_port`."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._listener: socket.socket | None = None
        self._accept_task: asyncio.Task[None] | None = None
        self._backlog_fillers: list[socket.socket] = []
        self._connections_by_task: dict[asyncio.Task[None], _ProxiedConnection] = {}
        self._proxy_errors: list[BaseException] = []
        self._unblock_timer: asyncio.TimerHandle | None = None
        self.active_fault: _InjectedFault | None = None
        self.port = 0
        self.connections = 0
        self.injected_count = 0
        """How often a fault has struck a connection."""

    async def __aenter__(self) -> Self:
        self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop_accepting(close=True)
        for task, link in list(self._connections_by_task.items()):
            link.reset()
            task.cancel()
        await asyncio.gather(*self._connections_by_task, return_exceptions=True)
        await asyncio.sleep(0)  # transports close their sockets in the loop's next turn
        if self._proxy_errors:
            raise self._proxy_errors[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._connections_by_task)

    async def inject(self, fault: Fault, phase: Phase, *, delay_s: float = 0.1, bytes_per_s: float = 10_000.0) -> None:
        """From now on, until lifted."""
        await self.clear()
        self.active_fault = _InjectedFault(fault, phase, delay_s, bytes_per_s)
        if phase is Phase.CONNECT:
            if fault is Fault.DOWN:
                await self._stop_accepting(close=True)
            elif fault in (Fault.BLACK_HOLE, Fault.LATENCY):
                await self._fill_backlog()
            if fault is Fault.LATENCY:
                self._unblock_timer = asyncio.get_running_loop().call_later(delay_s, self._drain_backlog)
        for link in self._connections_by_task.values():
            link.break_if_idle()

    async def wait_until_idle_broken(self) -> None:
        """Wait until every connection at rest has been struck, where that is what the fault does."""
        await self.wait_until(lambda it: not any(link.about_to_break for link in it._connections_by_task.values()))

    async def clear(self) -> None:
        """Let everything pass again."""
        self.active_fault = None
        if self._listener is None:
            self._listen()
        elif self._backlog_fillers:
            self._drain_backlog()

    async def wait_until(self, condition: Callable[[Self], bool], *, timeout_s: float = 10.0) -> None:
        """Wait until it holds; TimeoutError when it never does."""
        await wait_until(lambda: condition(self), timeout_s=timeout_s, interval_s=0.002)

    def reset_all(self) -> None:
        """Reset every connection there is now."""
        for link in self._connections_by_task.values():
            link.reset()

    def refuse_connections(self) -> None:
        """Refuse every connection until the fault is lifted."""
        self._cancel_accepting()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.setblocking(False)
        listener.listen(1024)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._accept_task = asyncio.get_running_loop().create_task(self._accept(listener))

    async def _stop_accepting(self, *, close: bool) -> None:
        """Accept no more connections."""
        if self._unblock_timer is not None:
            self._unblock_timer.cancel()
        accepting = self._accept_task
        if accepting is not None:
            self._cancel_accepting()
            await asyncio.gather(accepting, return_exceptions=True)
            self._accept_task = None
        if close:
            self.refuse_connections()
            for filler in self._backlog_fillers:
                filler.close()
            self._backlog_fillers = []

    def _cancel_accepting(self) -> None:
        """The loop would take a caller who came in this very turn of it on behalf of the cancelled call."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
        if self._accept_task is not None:
            self._accept_task.cancel()

    async def _fill_backlog(self) -> None:
        """Fill the queue of those who wait to be taken: the system then drops every further caller's SYN."""
        await self._stop_accepting(close=False)
        assert self._listener is not None
        self._listener.listen(0)
        for _ in range(2):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._backlog_fillers.append(filler)

    def _drain_backlog(self) -> None:
        assert self._listener is not None
        for filler in self._backlog_fillers:
            filler.close()
        self._backlog_fillers = []
        self._listener.listen(1024)
        self._accept_task = asyncio.get_running_loop().create_task(self._accept(self._listener))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            self.connections += 1
            link = _ProxiedConnection(self, sock)
            task = loop.create_task(link.run(self._upstream_port))
            self._connections_by_task[task] = link
            task.add_done_callback(self._on_connection_done)

    def _on_connection_done(self, task: asyncio.Task[None]) -> None:
        del self._connections_by_task[task]
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._proxy_errors.append(fault)


class _ConnectionBroken(Exception):
    """The fault ends this connection here."""


class _ProxiedConnection:
    """One caller's connection and its own to the upstream."""

    def __init__(self, proxy: FaultProxy, sock: socket.socket) -> None:
        self._proxy = proxy
        self._sock = sock
        self._tracker = _ResponseTracker()
        self._blackholed = False
        self._shaping_fault: _InjectedFault | None = None
        self._idle_break_task: asyncio.Task[None] | None = None
        self._client_writer: asyncio.StreamWriter | None = None

    async def run(self, upstream_port: int) -> None:
        upstream: asyncio.StreamWriter | None = None
        try:
            strike = self._proxy.active_fault
            if strike is not None and strike.phase is Phase.CONNECT and strike.fault is not Fault.LATENCY:
                if strike.fault in SHAPING:
                    self._count_injection()
                    self._shaping_fault = strike
                else:
                    await self._break(strike, self._sock)
            reader, self._client_writer = await asyncio.open_connection(sock=self._sock)
            from_upstream, upstream = await asyncio.open_connection("127.0.0.1", upstream_port)
            to_upstream = asyncio.create_task(self._to_upstream(reader, upstream))
            to_client = asyncio.create_task(self._to_client(from_upstream))
            both = (to_upstream, to_client)
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in both:
                    task.cancel()
                for ended in await asyncio.gather(*both, return_exceptions=True):
                    if isinstance(ended, Exception) and not isinstance(ended, (_ConnectionBroken, ConnectionError)):
                        raise ended
        except (_ConnectionBroken, ConnectionError):
            pass
        finally:
            if self._idle_break_task is not None:
                self._idle_break_task.cancel()
                await asyncio.gather(self._idle_break_task, return_exceptions=True)
            for writer in (self._client_writer, upstream):
                if writer is not None:
                    writer.close()
            if self._client_writer is None:
                self._sock.close()

    def reset(self) -> None:
        """End it with RST."""
        if self._client_writer is not None and self._client_writer.transport.is_closing():
            return
        with suppress(OSError):
            sock = self._sock if self._client_writer is None else self._client_writer.get_extra_info("socket")
            reset_when_closed(sock)
        if self._client_writer is None:
            self._sock.close()
        else:
            self._client_writer.transport.abort()

    async def _to_upstream(self, caller: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        while chunk := await caller.read(65_536):
            if self._idle_break_task is not None and self.about_to_break:
                self._idle_break_task.cancel()  # not at rest after all
            self._tracker.on_client_data()
            if not self._blackholed:
                upstream.write(chunk)
                await upstream.drain()

    async def _to_client(self, upstream: asyncio.StreamReader) -> None:
        while chunk := await upstream.read(65_536):
            for phase, part in self._tracker.split(chunk):
                await self._pass(phase, part)
            self.break_if_idle()
        if self._blackholed:
            await asyncio.Event().wait()  # the upstream's end does not pass either; the caller's own ends it

    async def _pass(self, phase: Phase | None, part: bytes) -> None:
        strike = self._proxy.active_fault
        if self._shaping_fault is not None:
            await self._shape(self._shaping_fault, part)
        elif strike is None or strike.phase is not phase or self._blackholed:
            await self._write(part)
        elif strike.fault in SHAPING:
            self._count_injection()
            await self._shape(strike, part)
        else:
            await self._write(part[: len(part) // 2])
            await asyncio.sleep(DELIVERY_GRACE_S)
            await self._break(strike)

    async def _shape(self, strike: _InjectedFault, part: bytes) -> None:
        if strike.fault is Fault.LATENCY:
            await asyncio.sleep(strike.delay_s)
            await self._write(part)
            return
        pieces = [part[start : start + CHUNK_BYTES] for start in range(0, len(part), CHUNK_BYTES)]
        for piece in pieces:
            if strike.fault is Fault.JITTER:
                await asyncio.sleep(random.random() * 2 * strike.delay_s / len(pieces))
            await self._write(piece)
            if strike.fault is Fault.BANDWIDTH:
                await asyncio.sleep(len(piece) / strike.bytes_per_s)

    async def _break(self, strike: _InjectedFault, raw: socket.socket | None = None) -> None:
        self._count_injection()
        if strike.fault is Fault.BLACK_HOLE:
            self._blackholed = True
            return
        if strike.fault is Fault.SLOW_CLOSE:
            self._blackholed = True
            await asyncio.sleep(strike.delay_s)
        elif strike.fault is not Fault.TRUNCATED:
            if strike.fault is Fault.DOWN:
                self._proxy.refuse_connections()
            self.reset()
        if raw is not None:
            with suppress(OSError):  # unread bytes would make a reset of the close
                while raw.recv(65_536):
                    pass
            raw.close()
        raise _ConnectionBroken

    @property
    def about_to_break(self) -> bool:
        return self._idle_break_task is not None and not self._idle_break_task.done() and not self._blackholed

    def break_if_idle(self) -> None:
        """If it is at rest, the fault that strikes then does."""
        strike = self._proxy.active_fault
        if strike is None or strike.phase is not Phase.IDLE or self._blackholed or not self._tracker.idle:
            return
        if strike.fault in SHAPING:
            self._count_injection()
            self._shaping_fault = strike
        elif self._idle_break_task is None or self._idle_break_task.done():
            self._idle_break_task = asyncio.create_task(self._break_after_grace(strike))

    async def _break_after_grace(self, strike: _InjectedFault) -> None:
        await asyncio.sleep(DELIVERY_GRACE_S)
        try:
            await self._break(strike)
        except _ConnectionBroken:
            if self._client_writer is not None:
                self._client_writer.close()

    async def _write(self, part: bytes) -> None:
        assert self._client_writer is not None
        if not self._blackholed:
            self._client_writer.write(part)
            await self._client_writer.drain()

    def _count_injection(self) -> None:
        self._proxy.injected_count += 1


class _ResponseTracker:
    """Where in a connection the upstream's bytes are."""

    def __init__(self) -> None:
        self._head = b""
        self._body_left = 0
        self._upstream_flights = 0
        self._upstream_sent_last = False
        self._first_byte: int | None = None
        self.idle = False

    def on_client_data(self) -> None:
        self.idle = False
        if self._upstream_sent_last:
            self._upstream_flights += 1
            self._upstream_sent_last = False

    def split(self, chunk: bytes) -> Iterator[tuple[Phase | None, bytes]]:
        """The phase of each part; None where the proxy cannot see it. Heads are kept until they are whole."""
        self._upstream_sent_last = True
        if self._first_byte is None:
            self._first_byte = chunk[0]
        if self._first_byte == _TLS:
            yield (Phase.TLS if self._upstream_flights == 0 else None), chunk
            return
        while chunk:
            if self._body_left:
                part, chunk = chunk[: self._body_left], chunk[self._body_left :]
                self._body_left -= len(part)
                yield Phase.BODY, part
            else:
                self._head += chunk
                end = self._head.find(b"\r\n\r\n") + 4
                if end < 4:
                    return
                whole, chunk, self._head = self._head[:end], self._head[end:], b""
                length = _LENGTH.search(whole)
                if length is None:
                    raise ValueError("the fault proxy needs answers with a Content-Length")
                self._body_left = int(length[1])
                yield Phase.HEADERS, whole
            self.idle = not self._body_left
