"""The aiohttp engine: aiohttp's client protocol and parser on connections that Paceline dials and keeps itself.

aiohttp's session, request and connector objects cost more than the exchange, retry by themselves and know nothing of
the guard, so only the part that speaks HTTP is used: `ResponseHandler` (docs/decisions/0003). The pool below holds what
the contract suite asks of a connection: used by one call at a time, never reused after a byte too many, closed at once
when its call ends early.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from functools import lru_cache

from aiohttp import client_exceptions, http_exceptions
from aiohttp.client_proto import ResponseHandler
from aiohttp.streams import EofStream

from paceline.errors import (
    AttemptError,
    AttemptTimeout,
    ConnectFailed,
    DnsFailed,
    PacelineError,
    ProtocolError,
    TlsFailed,
)
from paceline.model import Exchange, Headers, Request, Response, Url
from paceline.transport.base import Wire
from paceline.transport.coding import open_body, without_coding
from paceline.transport.dial import Dialler
from paceline.transport.egress import Guard
from paceline.transport.head import caller_fields, check_method, needs_length

KEEP_ALIVE_S = 15.0
MAX_IDLE = 1000
MAX_INTERIM = 100
"""1xx answers before the answer; a server that sends more is flooding."""
_MAX_LINE = 16 * 1024
_SAID_TIMEOUT = re.compile(r"timeout=([0-9]{1,6})", re.IGNORECASE).search
_MAX_FIELDS = 256
_READ_BUFFER = 64 * 1024

# The first entry that fits decides.
ERRORS: tuple[tuple[type[Exception], type[AttemptError]], ...] = (
    (client_exceptions.ClientConnectorDNSError, DnsFailed),
    (client_exceptions.ClientSSLError, TlsFailed),
    (client_exceptions.ServerFingerprintMismatch, TlsFailed),
    (client_exceptions.ClientConnectorError, ConnectFailed),
    (client_exceptions.ServerTimeoutError, AttemptTimeout),
    (client_exceptions.ClientError, ProtocolError),
    (client_exceptions.WSMessageTypeError, ProtocolError),
    (http_exceptions.HttpProcessingError, ProtocolError),
    (EofStream, ProtocolError),
    (TimeoutError, AttemptTimeout),
    (OSError, ProtocolError),
)

_Origin = tuple[str, str, int]


def translate(error: Exception, exchange: Exchange) -> PacelineError | None:
    """The library's error as ours; None for what no library raises, which is a fault of this program."""
    for kind, ours in ERRORS:
        if isinstance(error, kind):
            return ours(_said(error, exchange), sent=exchange.written_at is not None)
    return None


def _said(error: Exception, exchange: Exchange) -> str:
    if isinstance(error, client_exceptions.ServerDisconnectedError):
        said = "the upstream closed the connection before it answered"
    elif isinstance(error, http_exceptions.HttpProcessingError):
        said = f"the answer is not HTTP as it should be: {' '.join(error.message.split())[:200]}"
    else:
        said = str(error) or type(error).__name__
    if exchange.reused and exchange.answered_at is None:
        said += " (on a connection kept from an earlier request)"
    return said


class _Connection(ResponseHandler):
    """One connection. It belongs to the call whose `exchange` it has; bytes that arrive in between end it."""

    sock: socket.socket
    origin: _Origin
    exchange: Exchange | None = None
    idle_until: float = 0.0
    keep_s: float = KEEP_ALIVE_S

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            # aiohttp would parse it and hand it to the next call as that call's answer.
            if data:
                self.abort()
            return
        if exchange.answered_at is None:
            exchange.answered_at = time.perf_counter()
        super().data_received(data)

    def resume_reading(self, resume_parser: bool = True) -> None:
        if self._reading_paused:  # aiohttp asks after every read, and would run the parser over nothing
            super().resume_reading(resume_parser)

    def expect(self, bodyless: bool) -> None:
        """Make ready for one answer. The parser is new: an old one may hold the beginning of an answer nobody asked."""
        self.set_response_params(
            skip_payload=bodyless,
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
            max_headers=_MAX_FIELDS,
        )

    def reusable(self, now: float) -> bool:
        """Alive, and nothing has arrived on it since its last answer, not even in the kernel's buffer."""
        if not self.is_connected() or now >= self.idle_until:
            return False
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # a byte too many, or the end


class AiohttpTransport:
    """`Transport` over aiohttp's HTTP/1.1 protocol, with keep-alive. One for each upstream; needs a running loop."""

    def __init__(self, wire: Wire, guard: Guard) -> None:
        self._wire = wire
        self._dialler = Dialler(wire, guard)
        self._loop = asyncio.get_running_loop()
        self._idle: dict[_Origin, list[_Connection]] = {}
        self._idle_count = 0
        self._busy: set[_Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        # Items of one batch share their headers more often than not.
        self._fields = lru_cache(maxsize=256)(_rendered)

    async def send(self, request: Request) -> Response:
        """Send once and read the whole answer; see `Transport.send`."""
        head = self._head(request)
        url, exchange = request.url, request.exchange
        origin = (url.scheme, url.host, url.port)
        connection = self._take(origin)
        exchange.reused = connection is not None
        if connection is None:
            connection = await self._dial(url, origin)
        self._busy.add(connection)
        try:
            connection.exchange = exchange
            response = await self._exchange(connection, request, head)
        except Exception as error:
            connection.abort()
            if isinstance(error, PacelineError) or (ours := translate(error, exchange)) is None:
                raise
            raise ours from error
        except BaseException:
            connection.abort()
            raise
        finally:
            connection.exchange = None
            self._busy.discard(connection)
        self._keep(connection)
        return response

    async def close(self) -> None:
        """Close every connection; calls still in flight fail."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in [*self._busy, *(each for idle in self._idle.values() for each in idle)]:
            if connection.transport is not None:
                connection.transport.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # transports close their sockets in the loop's next turn

    async def _exchange(self, connection: _Connection, request: Request, head: bytes) -> Response:
        is_head = request.method == "HEAD"
        connection.expect(bodyless=is_head)
        transport = connection.transport
        if transport is None or transport.is_closing():
            raise ConnectFailed(f"{request.url.authority}: the connection closed as soon as it was open")
        transport.write(head + request.body if request.body else head)
        request.exchange.written(time.perf_counter())
        message, payload = await connection.read()
        interim = 0
        while message.code < 200:
            interim += 1
            if message.code == 101 or interim > MAX_INTERIM:
                what = "switched protocols unasked" if message.code == 101 else "sent nothing but interim answers"
                raise ProtocolError(f"the upstream {what}", sent=True)
            message, payload = await connection.read()
        if (said := message.headers.get("Keep-Alive")) is not None and (match := _SAID_TIMEOUT(said)) is not None:
            # A second short of the upstream's own word, so that it does not close as we write.
            connection.keep_s = min(KEEP_ALIVE_S, int(match[1]) - 1.0)
        headers = tuple(
            [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in message.raw_headers]
        )
        if is_head or message.code in (204, 304):
            return Response(message.code, headers, b"")
        body = open_body(headers, self._wire.max_response)
        while chunk := await payload.readany():
            body.feed(chunk)
        whole = body.finish()
        return Response(message.code, without_coding(headers) if body.decoded else headers, whole)

    def _head(self, request: Request) -> bytes:
        check_method(request.method)
        url = request.url
        fields = self._fields(request.headers)
        if needs_length(request):
            fields += b"Content-Length: %d\r\n" % len(request.body)
        if (authorization := self._dialler.authorization(url)) is not None:
            fields += f"Proxy-Authorization: {authorization}\r\n".encode("ascii")
        line = f"{request.method} {self._dialler.target(url)} HTTP/1.1\r\nHost: {url.authority}\r\n"
        return line.encode("ascii") + fields + b"\r\n"

    async def _dial(self, url: Url, origin: _Origin) -> _Connection:
        loop = self._loop
        transport, connection, sock = await self._dialler.open(url, lambda: _Connection(loop))
        connection.sock, connection.origin = sock, origin
        if self._closed:
            transport.abort()
            raise ConnectFailed("the engine is closed")
        return connection

    def _take(self, origin: _Origin) -> _Connection | None:
        """The connection used last that can still be used: the others get to grow old and close."""
        idle = self._idle.get(origin)
        if not idle:
            return None
        now = time.perf_counter()
        while idle:
            connection = idle.pop()
            self._idle_count -= 1
            if connection.reusable(now):
                return connection
            connection.abort()
        return None

    def _keep(self, connection: _Connection) -> None:
        transport = connection.transport
        if (
            self._closed
            or transport is None
            or connection.should_close
            or self._idle_count >= MAX_IDLE
            or transport.get_write_buffer_size()  # answered before it had taken the whole request
        ):
            connection.abort()
            return
        connection.idle_until = time.perf_counter() + connection.keep_s
        self._idle.setdefault(connection.origin, []).append(connection)
        self._idle_count += 1
        if self._sweep is None:
            self._sweep = self._loop.call_later(KEEP_ALIVE_S, self._close_old)

    def _close_old(self) -> None:
        now = time.perf_counter()
        for origin, idle in list(self._idle.items()):
            old = [each for each in idle if not each.is_connected() or now >= each.idle_until]
            idle[:] = [each for each in idle if each.is_connected() and now < each.idle_until]
            self._idle_count -= len(old)
            for connection in old:
                connection.abort()
            if not idle:
                del self._idle[origin]
        self._sweep = self._loop.call_later(KEEP_ALIVE_S / 3, self._close_old) if self._idle else None


def _rendered(headers: Headers) -> bytes:
    return b"".join(b"%s: %s\r\n" % (name.encode("ascii"), value) for name, value in caller_fields(headers))
