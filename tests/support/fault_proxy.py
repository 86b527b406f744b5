"""A proxy between Paceline and an upstream that breaks connections where a test says.

    async with FaultProxy(upstream.port) as proxy:
        proxy.strike(Fault.RESET, Phase.BODY)  # half of each body arrives, then a TCP reset
        ...
        proxy.lift()  # from now on everything passes

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
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple, Self

PIECE = 16
"""Bytes that pass at once where the flow is shaped."""

LET_ARRIVE_S = 0.02
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


class _Strike(NamedTuple):
    fault: Fault
    phase: Phase
    delay_s: float
    bytes_per_s: float


class FaultProxy:
    """Listens on 127.0.0.1 while the context is open and passes connections on to `upstream_port`."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._fillers: list[socket.socket] = []
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._faults: list[BaseException] = []
        self._opening: asyncio.TimerHandle | None = None
        self.strike_now: _Strike | None = None
        self.port = 0
        self.connections = 0
        self.struck = 0
        """How often a fault has struck a connection."""

    async def __aenter__(self) -> Self:
        self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end(close=True)
        for task, link in list(self._links.items()):
            link.reset()
            task.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        await asyncio.sleep(0)  # transports close their sockets in the loop's next turn
        if self._faults:
            raise self._faults[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._links)

    async def strike(self, fault: Fault, phase: Phase, *, delay_s: float = 0.1, bytes_per_s: float = 10_000.0) -> None:
        """From now on, until lifted."""
        await self.lift()
        self.strike_now = _Strike(fault, phase, delay_s, bytes_per_s)
        if phase is Phase.CONNECT:
            if fault is Fault.DOWN:
                await self._end(close=True)
            elif fault in (Fault.BLACK_HOLE, Fault.LATENCY):
                await self._block()
            if fault is Fault.LATENCY:
                self._opening = asyncio.get_running_loop().call_later(delay_s, self._unblock)
        for link in self._links.values():
            link.now_idle()

    async def settled(self) -> None:
        """Wait until every connection at rest has been struck, where that is what the fault does."""
        await self.until(lambda it: not any(link.about_to_break for link in it._links.values()))

    async def lift(self) -> None:
        """Let everything pass again."""
        self.strike_now = None
        if self._listener is None:
            self._listen()
        elif self._fillers:
            self._unblock()

    async def until(self, condition: Callable[[Self], bool], *, within_s: float = 10.0) -> None:
        """Wait until it holds; TimeoutError when it never does."""
        async with asyncio.timeout(within_s):
            while not condition(self):  # noqa: ASYNC110 - the condition is the test's, no event tells of it
                await asyncio.sleep(0.002)

    def cut(self) -> None:
        """Reset every connection there is now."""
        for link in self._links.values():
            link.reset()

    def go_down(self) -> None:
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
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listener))

    async def _end(self, *, close: bool) -> None:
        """Take nobody any more."""
        if self._opening is not None:
            self._opening.cancel()
        accepting = self._accepting
        if accepting is not None:
            self._cancel_accepting()
            await asyncio.gather(accepting, return_exceptions=True)
            self._accepting = None
        if close:
            self.go_down()
            for filler in self._fillers:
                filler.close()
            self._fillers = []

    def _cancel_accepting(self) -> None:
        """The loop would take a caller who came in this very turn of it on behalf of the cancelled call."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
        if self._accepting is not None:
            self._accepting.cancel()

    async def _block(self) -> None:
        """Fill the queue of those who wait to be taken: the system then drops every further caller's SYN."""
        await self._end(close=False)
        assert self._listener is not None
        self._listener.listen(0)
        for _ in range(2):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    def _unblock(self) -> None:
        assert self._listener is not None
        for filler in self._fillers:
            filler.close()
        self._fillers = []
        self._listener.listen(1024)
        self._accepting = asyncio.get_running_loop().create_task(self._accept(self._listener))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            self.connections += 1
            link = _Link(self, sock)
            task = loop.create_task(link.run(self._upstream_port))
            self._links[task] = link
            task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        del self._links[task]
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._faults.append(fault)


class _Ended(Exception):
    """The fault ends this connection here."""


class _Link:
    """One caller's connection and its own to the upstream."""

    def __init__(self, proxy: FaultProxy, sock: socket.socket) -> None:
        self._proxy = proxy
        self._sock = sock
        self._place = _Place()
        self._mute = False
        self._worn: _Strike | None = None
        self._idle_strike: asyncio.Task[None] | None = None
        self._caller: asyncio.StreamWriter | None = None

    async def run(self, upstream_port: int) -> None:
        upstream: asyncio.StreamWriter | None = None
        try:
            strike = self._proxy.strike_now
            if strike is not None and strike.phase is Phase.CONNECT and strike.fault is not Fault.LATENCY:
                if strike.fault in SHAPING:
                    self._struck()
                    self._worn = strike
                else:
                    await self._break(strike, self._sock)
            reader, self._caller = await asyncio.open_connection(sock=self._sock)
            from_upstream, upstream = await asyncio.open_connection("127.0.0.1", upstream_port)
            there = asyncio.create_task(self._to_upstream(reader, upstream))
            back = asyncio.create_task(self._to_caller(from_upstream))
            both = (there, back)
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in both:
                    task.cancel()
                for ended in await asyncio.gather(*both, return_exceptions=True):
                    if isinstance(ended, Exception) and not isinstance(ended, (_Ended, ConnectionError)):
                        raise ended
        except (_Ended, ConnectionError):
            pass
        finally:
            if self._idle_strike is not None:
                self._idle_strike.cancel()
                await asyncio.gather(self._idle_strike, return_exceptions=True)
            for writer in (self._caller, upstream):
                if writer is not None:
                    writer.close()
            if self._caller is None:
                self._sock.close()

    def reset(self) -> None:
        """End it with RST."""
        if self._caller is not None and self._caller.transport.is_closing():
            return
        with suppress(OSError):
            sock = self._sock if self._caller is None else self._caller.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if self._caller is None:
            self._sock.close()
        else:
            self._caller.transport.abort()

    async def _to_upstream(self, caller: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        while chunk := await caller.read(65_536):
            if self._idle_strike is not None and self.about_to_break:
                self._idle_strike.cancel()  # not at rest after all
            self._place.caller_spoke()
            if not self._mute:
                upstream.write(chunk)
                await upstream.drain()

    async def _to_caller(self, upstream: asyncio.StreamReader) -> None:
        while chunk := await upstream.read(65_536):
            for phase, part in self._place.split(chunk):
                await self._pass(phase, part)
            self.now_idle()
        if self._mute:
            await asyncio.Event().wait()  # the upstream's end does not pass either; the caller's own ends it

    async def _pass(self, phase: Phase | None, part: bytes) -> None:
        strike = self._proxy.strike_now
        if self._worn is not None:
            await self._shape(self._worn, part)
        elif strike is None or strike.phase is not phase or self._mute:
            await self._write(part)
        elif strike.fault in SHAPING:
            self._struck()
            await self._shape(strike, part)
        else:
            await self._write(part[: len(part) // 2])
            await asyncio.sleep(LET_ARRIVE_S)
            await self._break(strike)

    async def _shape(self, strike: _Strike, part: bytes) -> None:
        if strike.fault is Fault.LATENCY:
            await asyncio.sleep(strike.delay_s)
            await self._write(part)
            return
        pieces = [part[start : start + PIECE] for start in range(0, len(part), PIECE)]
        for piece in pieces:
            if strike.fault is Fault.JITTER:
                await asyncio.sleep(random.random() * 2 * strike.delay_s / len(pieces))
            await self._write(piece)
            if strike.fault is Fault.BANDWIDTH:
                await asyncio.sleep(len(piece) / strike.bytes_per_s)

    async def _break(self, strike: _Strike, raw: socket.socket | None = None) -> None:
        self._struck()
        if strike.fault is Fault.BLACK_HOLE:
            self._mute = True
            return
        if strike.fault is Fault.SLOW_CLOSE:
            self._mute = True
            await asyncio.sleep(strike.delay_s)
        elif strike.fault is not Fault.TRUNCATED:
            if strike.fault is Fault.DOWN:
                self._proxy.go_down()
            self.reset()
        if raw is not None:
            with suppress(OSError):  # unread bytes would make a reset of the close
                while raw.recv(65_536):
                    pass
            raw.close()
        raise _Ended

    @property
    def about_to_break(self) -> bool:
        return self._idle_strike is not None and not self._idle_strike.done() and not self._mute

    def now_idle(self) -> None:
        """If it is at rest, the fault that strikes then does."""
        strike = self._proxy.strike_now
        if strike is None or strike.phase is not Phase.IDLE or self._mute or not self._place.idle:
            return
        if strike.fault in SHAPING:
            self._struck()
            self._worn = strike
        elif self._idle_strike is None or self._idle_strike.done():
            self._idle_strike = asyncio.create_task(self._strike_idle(strike))

    async def _strike_idle(self, strike: _Strike) -> None:
        await asyncio.sleep(LET_ARRIVE_S)
        try:
            await self._break(strike)
        except _Ended:
            if self._caller is not None:
                self._caller.close()

    async def _write(self, part: bytes) -> None:
        assert self._caller is not None
        if not self._mute:
            self._caller.write(part)
            await self._caller.drain()

    def _struck(self) -> None:
        self._proxy.struck += 1


class _Place:
    """Where in a connection the upstream's bytes are."""

    def __init__(self) -> None:
        self._head = b""
        self._body_left = 0
        self._flights = 0
        self._spoken = False
        self._first: int | None = None
        self.idle = False

    def caller_spoke(self) -> None:
        self.idle = False
        if self._spoken:
            self._flights += 1
            self._spoken = False

    def split(self, chunk: bytes) -> Iterator[tuple[Phase | None, bytes]]:
        """The phase of each part; None where the proxy cannot see it. Heads are kept until they are whole."""
        self._spoken = True
        if self._first is None:
            self._first = chunk[0]
        if self._first == _TLS:
            yield (Phase.TLS if self._flights == 0 else None), chunk
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
