"""The aiohttp engine: aiohttp's client protocol and parser on connections that Paceline opens and pools.

aiohttp's session, request and connector objects cost more than the exchange, retry on their own and bypass the egress
guard, so only its HTTP protocol is used: `ResponseHandler` (docs/decisions/0003). The pool below meets the contract of
tests/integration/transport: a connection serves one call at a time, is never reused after a surplus byte, and is closed
at once when its call ends early.
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
from paceline.transport.base import TransportOptions
from paceline.transport.connector import Connector
from paceline.transport.content_decoding import open_body_decoder, strip_coding_headers
from paceline.transport.egress import EgressGuard
from paceline.transport.request_headers import build_header_fields, check_method, needs_content_length

KEEP_ALIVE_S = 15.0
MAX_IDLE_CONNECTIONS = 1000
MAX_INTERIM_RESPONSES = 100
"""1xx responses before the final one; a server that sends more is flooding."""
_MAX_LINE_BYTES = 16 * 1024
_KEEP_ALIVE_TIMEOUT = re.compile(r"timeout=([0-9]{1,6})", re.IGNORECASE).search
_MAX_FIELDS = 256
_READ_BUFFER_BYTES = 64 * 1024

# The first entry that fits decides.
ERROR_MAP: tuple[tuple[type[Exception], type[AttemptError]], ...] = (
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


def translate_error(error: Exception, exchange: Exchange) -> PacelineError | None:
    """The library's error as one of ours; None for an error of this program."""
    for kind, ours in ERROR_MAP:
        if isinstance(error, kind):
            return ours(_describe_error(error, exchange), sent=exchange.written_at is not None)
    return None


def _describe_error(error: Exception, exchange: Exchange) -> str:
    if isinstance(error, client_exceptions.ServerDisconnectedError):
        description = "the upstream closed the connection before it answered"
    elif isinstance(error, http_exceptions.HttpProcessingError):
        description = f"the answer is not HTTP as it should be: {' '.join(error.message.split())[:200]}"
    else:
        description = str(error) or type(error).__name__
    if exchange.reused and exchange.answered_at is None:
        description += " (on a connection kept from an earlier request)"
    return description


class _PooledConnection(ResponseHandler):
    """One connection. It belongs to the call whose `exchange` it has; bytes that arrive between calls end it."""

    sock: socket.socket
    origin: _Origin
    exchange: Exchange | None = None
    expires_at: float = 0.0
    keep_alive_s: float = KEEP_ALIVE_S

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            # aiohttp would parse them and give them to the next call as its response.
            if data:
                self.abort()
            return
        if exchange.answered_at is None:
            exchange.answered_at = time.perf_counter()
        super().data_received(data)

    def resume_reading(self, resume_parser: bool = True) -> None:
        if self._reading_paused:  # aiohttp asks after every read, and would run the parser over nothing
            super().resume_reading(resume_parser)

    def prepare_for_response(self, without_body: bool) -> None:
        """Prepare for one response. The parser is new: an old one may hold part of an unsolicited response."""
        self.set_response_params(
            skip_payload=without_body,
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=_READ_BUFFER_BYTES,
            max_line_size=_MAX_LINE_BYTES,
            max_field_size=_MAX_LINE_BYTES,
            max_headers=_MAX_FIELDS,
        )

    def is_reusable(self, now: float) -> bool:
        """Whether it is open and no byte has arrived since its last response, not even in the kernel's buffer."""
        if not self.is_connected() or now >= self.expires_at:
            return False
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # a surplus byte, or the end


class AiohttpTransport:
    """`Transport` over aiohttp's HTTP/1.1 protocol, with keep-alive. One for each upstream; needs a running loop."""

    def __init__(self, options: TransportOptions, guard: EgressGuard) -> None:
        self._options = options
        self._connector = Connector(options, guard)
        self._loop = asyncio.get_running_loop()
        self._idle: dict[_Origin, list[_PooledConnection]] = {}
        self._idle_count = 0
        self._in_use: set[_PooledConnection] = set()
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._closed = False
        # Items of one batch usually share their headers.
        self._render_cached_headers = lru_cache(maxsize=256)(_render_headers)

    async def send(self, request: Request) -> Response:
        """Send once and read the whole response; see `Transport.send`."""
        head = self._render_head(request)
        url, exchange = request.url, request.exchange
        origin = (url.scheme, url.host, url.port)
        connection = self._take_idle(origin)
        exchange.reused = connection is not None
        if connection is None:
            connection = await self._connect(url, origin)
        self._in_use.add(connection)
        try:
            connection.exchange = exchange
            response = await self._exchange(connection, request, head)
        except Exception as error:
            connection.abort()
            if isinstance(error, PacelineError) or (ours := translate_error(error, exchange)) is None:
                raise
            raise ours from error
        except BaseException:
            connection.abort()
            raise
        finally:
            connection.exchange = None
            self._in_use.discard(connection)
        self._return_to_pool(connection)
        return response

    async def close(self) -> None:
        """Close every connection; calls still in flight fail."""
        self._closed = True
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        for connection in [*self._in_use, *(each for idle in self._idle.values() for each in idle)]:
            if connection.transport is not None:
                connection.transport.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # transports close their sockets in the loop's next turn

    async def _exchange(self, connection: _PooledConnection, request: Request, head: bytes) -> Response:
        is_head = request.method == "HEAD"
        connection.prepare_for_response(without_body=is_head)
        transport = connection.transport
        if transport is None or transport.is_closing():
            raise ConnectFailed(f"{request.url.authority}: the connection closed as soon as it was open")
        transport.write(head + request.body if request.body else head)
        request.exchange.mark_written(time.perf_counter())
        message, payload = await connection.read()
        interim_count = 0
        while message.code < 200:
            interim_count += 1
            if message.code == 101 or interim_count > MAX_INTERIM_RESPONSES:
                what = "switched protocols unasked" if message.code == 101 else "sent nothing but interim answers"
                raise ProtocolError(f"the upstream {what}", sent=True)
            message, payload = await connection.read()
        if (keep_alive := message.headers.get("Keep-Alive")) is not None and (
            match := _KEEP_ALIVE_TIMEOUT(keep_alive)
        ) is not None:
            # A second less than the upstream advertises, so that it does not close while we write.
            connection.keep_alive_s = min(KEEP_ALIVE_S, int(match[1]) - 1.0)
        headers = tuple(
            [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in message.raw_headers]
        )
        if is_head or message.code in (204, 304):
            return Response(message.code, headers, b"")
        body = open_body_decoder(headers, self._options.max_response)
        while chunk := await payload.readany():
            body.feed(chunk)
        content = body.finish()
        return Response(message.code, strip_coding_headers(headers) if body.was_decoded else headers, content)

    def _render_head(self, request: Request) -> bytes:
        check_method(request.method)
        url = request.url
        fields = self._render_cached_headers(request.headers)
        if needs_content_length(request):
            fields += b"Content-Length: %d\r\n" % len(request.body)
        if (authorization := self._connector.proxy_authorization(url)) is not None:
            fields += f"Proxy-Authorization: {authorization}\r\n".encode("ascii")
        line = f"{request.method} {self._connector.request_target(url)} HTTP/1.1\r\nHost: {url.authority}\r\n"
        return line.encode("ascii") + fields + b"\r\n"

    async def _connect(self, url: Url, origin: _Origin) -> _PooledConnection:
        loop = self._loop
        transport, connection, sock = await self._connector.connect(url, lambda: _PooledConnection(loop))
        connection.sock, connection.origin = sock, origin
        if self._closed:
            transport.abort()
            raise ConnectFailed("the engine is closed")
        return connection

    def _take_idle(self, origin: _Origin) -> _PooledConnection | None:
        """The most recently used connection that is still usable: the others expire and close."""
        idle = self._idle.get(origin)
        if not idle:
            return None
        now = time.perf_counter()
        while idle:
            connection = idle.pop()
            self._idle_count -= 1
            if connection.is_reusable(now):
                return connection
            connection.abort()
        return None

    def _return_to_pool(self, connection: _PooledConnection) -> None:
        transport = connection.transport
        if (
            self._closed
            or transport is None
            or connection.should_close
            or self._idle_count >= MAX_IDLE_CONNECTIONS
            or transport.get_write_buffer_size()  # answered before it had taken the whole request
        ):
            connection.abort()
            return
        connection.expires_at = time.perf_counter() + connection.keep_alive_s
        self._idle.setdefault(connection.origin, []).append(connection)
        self._idle_count += 1
        if self._expiry_timer is None:
            self._expiry_timer = self._loop.call_later(KEEP_ALIVE_S, self._close_expired)

    def _close_expired(self) -> None:
        now = time.perf_counter()
        for origin, idle in list(self._idle.items()):
            expired = [each for each in idle if not each.is_connected() or now >= each.expires_at]
            idle[:] = [each for each in idle if each.is_connected() and now < each.expires_at]
            self._idle_count -= len(expired)
            for connection in expired:
                connection.abort()
            if not idle:
                del self._idle[origin]
        self._expiry_timer = self._loop.call_later(KEEP_ALIVE_S / 3, self._close_expired) if self._idle else None


def _render_headers(headers: Headers) -> bytes:
    return b"".join(b"%s: %s\r\n" % (name.encode("ascii"), value) for name, value in build_header_fields(headers))
