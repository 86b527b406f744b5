"""The httpx engine: httpx2's transports behind the `Transport` contract, for familiarity and for mocks.

Any httpx transport can be plugged in (respx, `MockTransport`, `ASGITransport`). The default one gives each request an
httpcore2 connection of its own, over a stream that Paceline opened: httpcore2's pool passes surplus bytes to the next
caller and keeps dead entries after a native cancellation, so this engine has no keep-alive (docs/decisions/0002).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from typing import Any

import httpcore2
import httpx2

from paceline.errors import (
    AttemptError,
    AttemptTimeout,
    ConnectFailed,
    InvalidRequest,
    PacelineError,
    ProtocolError,
)
from paceline.model import Exchange, Request, Response, Url
from paceline.transport.base import TransportOptions
from paceline.transport.connector import Connector
from paceline.transport.content_decoding import open_body_decoder, strip_coding_headers
from paceline.transport.egress import EgressGuard
from paceline.transport.request_headers import build_header_fields, check_method, needs_content_length

MAX_RESPONSE_HEAD_BYTES = 256 * 1024
"""Bytes of a response before its head is complete, interim responses included."""
_READ_BUFFER_BYTES = 64 * 1024

# The first entry that fits decides.
ERROR_MAP: tuple[tuple[type[Exception], type[AttemptError]], ...] = (
    (httpx2.ConnectTimeout, ConnectFailed),
    (httpx2.ConnectError, ConnectFailed),
    (httpx2.PoolTimeout, ConnectFailed),
    (httpx2.ProxyError, ConnectFailed),
    (httpx2.UnsupportedProtocol, ConnectFailed),
    (httpx2.TimeoutException, AttemptTimeout),
    (httpx2.HTTPError, ProtocolError),
    (httpx2.StreamError, ProtocolError),
    (httpx2.InvalidURL, ProtocolError),
    (httpx2.CookieConflict, ProtocolError),
    (httpcore2.ConnectTimeout, ConnectFailed),
    (httpcore2.ConnectError, ConnectFailed),
    (httpcore2.PoolTimeout, ConnectFailed),
    (httpcore2.ProxyError, ConnectFailed),
    (httpcore2.UnsupportedProtocol, ConnectFailed),
    (httpcore2.ConnectionNotAvailable, ConnectFailed),
    (httpcore2.TimeoutException, AttemptTimeout),
    (httpcore2.NetworkError, ProtocolError),
    (httpcore2.ProtocolError, ProtocolError),
    (TimeoutError, AttemptTimeout),
    (OSError, ProtocolError),
)
_NEVER_SENT = (ConnectFailed,)


def translate_error(error: Exception, exchange: Exchange) -> PacelineError | None:
    """The library's error as one of ours; None for an error of this program."""
    for kind, ours in ERROR_MAP:
        if isinstance(error, kind):
            sent = exchange.written_at is not None and not issubclass(ours, _NEVER_SENT)
            return ours(str(error) or type(error).__name__, sent=sent)
    return None


class HttpxTransport:
    """`Transport` over httpx2, HTTP/1.1, one connection a request. One for each upstream; needs a running loop."""

    def __init__(
        self, options: TransportOptions, guard: EgressGuard, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self._options = options
        self._connector = Connector(options, guard)
        self._connecting_transport = _ConnectingTransport(self._connector) if transport is None else None
        self._transport = transport or self._connecting_transport
        self._closed = False

    async def send(self, request: Request) -> Response:
        """Send once and read the whole response; see `Transport.send`."""
        outgoing = self._build_request(request)
        exchange = request.exchange
        if self._closed:
            raise ConnectFailed("the engine is closed")
        if self._connecting_transport is None:
            exchange.mark_written(time.perf_counter())  # a plugged-in transport has no socket to watch
        answer: httpx2.Response | None = None
        try:
            assert self._transport is not None
            answer = await self._transport.handle_async_request(outgoing)
            exchange.mark_written(time.perf_counter())  # a mock answered without a socket
            if exchange.answered_at is None:
                exchange.answered_at = time.perf_counter()
            return await self._read_response(request, answer)
        except Exception as error:
            if isinstance(error, PacelineError) or (ours := translate_error(error, exchange)) is None:
                raise
            raise ours from error
        finally:
            if answer is not None:
                assert isinstance(answer.stream, httpx2.AsyncByteStream)
                await answer.stream.aclose()

    async def close(self) -> None:
        """Close every connection; calls still in flight fail."""
        self._closed = True
        assert self._transport is not None
        await self._transport.aclose()

    async def _read_response(self, request: Request, answer: httpx2.Response) -> Response:
        status = answer.status_code
        if status < 200:
            raise ProtocolError("the upstream switched protocols unasked", sent=True)
        headers = tuple([(n.decode("latin-1").lower(), v.decode("latin-1")) for n, v in answer.headers.raw])
        if request.method == "HEAD" or status in (204, 304):
            return Response(status, headers, b"")
        body = open_body_decoder(headers, self._options.max_response)
        assert isinstance(answer.stream, AsyncIterable)
        chunks = aiter(answer.stream)
        try:
            async for chunk in chunks:
                body.feed(chunk)
        finally:
            if isinstance(chunks, AsyncGenerator):  # else the collector would close it in a task that is never awaited
                await chunks.aclose()
        content = body.finish()
        return Response(status, strip_coding_headers(headers) if body.was_decoded else headers, content)

    def _build_request(self, request: Request) -> httpx2.Request:
        check_method(request.method)
        url = request.url
        fields = [("Host", url.authority.encode("ascii")), *build_header_fields(request.headers)]
        if needs_content_length(request):
            fields.append(("Content-Length", str(len(request.body)).encode("ascii")))
        if (authorization := self._connector.proxy_authorization(url)) is not None:
            fields.append(("Proxy-Authorization", authorization.encode("ascii")))
        fields.append(("Connection", b"close"))
        try:
            return httpx2.Request(
                request.method,
                str(url),
                headers=[(name.encode("ascii"), value) for name, value in fields],
                stream=httpx2.ByteStream(request.body),
                extensions={
                    "target": self._connector.request_target(url).encode("ascii"),
                    "paceline": (url, request.exchange),
                },
            )
        except httpx2.InvalidURL as error:  # longer than the library takes
            raise InvalidRequest(f"the URL cannot be used with engine httpx: {error}; use engine aiohttp") from error


class _ConnectingTransport(httpx2.AsyncBaseTransport):
    """Each request on a connection of its own: Paceline opens it, httpcore2 speaks HTTP on it."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._streams: set[_Stream] = set()
        self._closed = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url, exchange = request.extensions["paceline"]
        backend = _Backend(self, url, exchange)
        target = request.extensions["target"]
        core = httpcore2.Request(
            method=request.method.encode("ascii"),
            url=httpcore2.URL(scheme=url.scheme, host=url.host, port=url.port, target=target),
            headers=request.headers.raw,
            content=request.stream,
        )
        connection = httpcore2.AsyncHTTPConnection(core.url.origin, network_backend=backend)
        try:
            answer = await connection.handle_async_request(core)
        except BaseException:
            backend.close()
            raise
        if backend.stream is not None:
            backend.stream.is_head_read = True
        return httpx2.Response(answer.status, headers=answer.headers, stream=_ResponseStream(answer, backend))

    async def aclose(self) -> None:
        self._closed = True
        for stream in list(self._streams):
            stream.abort()
        await asyncio.sleep(0)  # transports close their sockets in the loop's next turn

    async def connect(self, url: Url, exchange: Exchange) -> _Stream:
        reader = asyncio.StreamReader(limit=_READ_BUFFER_BYTES)
        transport, _, _ = await self._connector.connect(url, lambda: asyncio.StreamReaderProtocol(reader))
        stream = _Stream(reader, transport, exchange, self._streams)
        if self._closed:
            stream.abort()
            raise ConnectFailed("the engine is closed")
        return stream


class _Backend(httpcore2.AsyncNetworkBackend):
    """Gives one request its stream, past the proxy and TLS, so that httpcore2 only speaks HTTP on it."""

    def __init__(self, connecting_transport: _ConnectingTransport, url: Url, exchange: Exchange) -> None:
        self._connecting_transport = connecting_transport
        self._url = url
        self._exchange = exchange
        self.stream: _Stream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        self.stream = await self._connecting_transport.connect(self._url, self._exchange)
        return self.stream

    def close(self) -> None:
        if self.stream is not None:
            self.stream.abort()


class _Stream(httpcore2.AsyncNetworkStream):
    """An open connection as httpcore2 expects one. Writing never waits: the body is in memory."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        transport: asyncio.Transport,
        exchange: Exchange,
        open_streams: set[_Stream],
    ) -> None:
        self._reader = reader
        self._transport = transport
        self._exchange = exchange
        self._open_streams = open_streams
        open_streams.add(self)
        self._head_bytes = 0
        self.is_head_read = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        chunk = await self._reader.read(max_bytes)
        if chunk and self._exchange.answered_at is None:
            self._exchange.answered_at = time.perf_counter()
        if not self.is_head_read:
            self._head_bytes += len(chunk)
            if self._head_bytes > MAX_RESPONSE_HEAD_BYTES:
                raise ProtocolError(f"the upstream's head is longer than {MAX_RESPONSE_HEAD_BYTES} bytes", sent=True)
        return chunk

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._transport.is_closing():
            raise httpcore2.WriteError(
                "the connection is closed"
            )  # httpcore2 then looks for an answer that came before
        self._transport.write(buffer)
        self._exchange.mark_written(time.perf_counter())

    async def aclose(self) -> None:
        self.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        return self

    def abort(self) -> None:
        self._transport.abort()
        self._open_streams.discard(self)


class _ResponseStream(httpx2.AsyncByteStream):
    def __init__(self, answer: httpcore2.Response, backend: _Backend) -> None:
        assert isinstance(answer.stream, AsyncIterable)
        self._chunks = answer.stream
        self._backend = backend

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._chunks)

    async def aclose(self) -> None:
        self._backend.close()
