"""One request at a time to a running service; its answer is read as it comes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import httptools
import msgspec
from msgspec import Struct

from paceline import __version__
from paceline.cli.usage_error import UsageError

_CONNECT_TIMEOUT_S = 5.0
_READ_BYTES = 64 * 1024


class ServiceUnreachable(Exception):
    """The service cannot be reached; nothing of the request was taken."""


class ConnectionLost(Exception):
    """The answer ended before it was whole; the service may have acted on the request."""


class ServiceErrorResponse(UsageError):
    """The service refused the request as it is; the text is its own reason."""

    def __init__(self, status: int, detail: str, field: str | None = None) -> None:
        super().__init__(f"the service answered {status}: {detail}")
        self.status, self.field = status, field


class _Problem(Struct):
    detail: str = ""
    field: str | None = None


class ServiceResponse:
    """An answer whose head is here."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._reader = reader
        self._parser = httptools.HttpResponseParser(self)
        self._content = bytearray()
        self._is_head_done = self._is_complete = False

    async def iter_lines(self) -> AsyncIterator[bytes]:
        """Its body's lines, without their ends.

        Raises:
            BrokenOff: it ended too soon.
        """
        while True:
            *complete, rest = self._content.split(b"\n")
            self._content = rest
            for line in complete:
                yield bytes(line)
            if self._is_complete:
                break
            await self._read_more()
        if rest:
            yield bytes(rest)

    async def read_body(self) -> bytes:
        """All of it.

        Raises:
            BrokenOff: it ended too soon.
        """
        while not self._is_complete:
            await self._read_more()
        return bytes(self._content)

    async def read_error(self) -> ServiceErrorResponse:
        """Why the service refused it, in its own words."""
        body = await self.read_body()
        try:
            problem = msgspec.json.decode(body, type=_Problem)
        except (msgspec.DecodeError, UnicodeDecodeError):
            problem = _Problem()
        return ServiceErrorResponse(self.status, problem.detail or "it gives no reason; is it Paceline?", problem.field)

    async def read_head(self) -> None:
        while not self._is_head_done:
            await self._read_more()

    async def _read_more(self) -> None:
        try:
            received = await self._reader.read(_READ_BYTES)
            if not received:
                raise ConnectionLost("the service closed the connection before its answer was whole")
            self._parser.feed_data(received)
        except OSError as error:
            raise ConnectionLost(f"the connection to the service broke off: {error.strerror or error}") from None
        except httptools.HttpParserError as error:
            raise ConnectionLost(f"the service answered what is no HTTP: {error}") from None

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._is_head_done = True

    def on_body(self, content: bytes) -> None:
        self._content += content

    def on_message_complete(self) -> None:
        self._is_complete = True


class ServiceClient:
    """A running service, by its base URL."""

    def __init__(self, server: str, key: str | None) -> None:
        invalid_url = UsageError(f"--server: {server!r} is not a service's address; write it as http://127.0.0.1:8080")
        try:
            parts = urlsplit(server)
            port = parts.port
        except ValueError:
            raise invalid_url from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in server:
            raise invalid_url
        self.address = f"{parts.scheme}://{parts.netloc}"
        self._host, self._use_tls = parts.hostname, parts.scheme == "https"
        self._port = port or (443 if self._use_tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._authority = parts.netloc
        self._key = key

    @asynccontextmanager
    async def post(self, path: str, body: bytes, accept: str = "application/json") -> AsyncIterator[ServiceResponse]:
        """Send a JSON body; see `call`."""
        async with self.request("POST", path, body, accept) as response:
            yield response

    @asynccontextmanager
    async def request(
        self, method: str, path: str, body: bytes = b"", accept: str = "application/json"
    ) -> AsyncIterator[ServiceResponse]:
        """Send a request; leaving the block hangs up, which cancels a batch that is still on its way.

        Raises:
            Unreachable, BrokenOff: no whole answer.
        """
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, ssl=ssl.create_default_context() if self._use_tls else None
                )
        except (OSError, TimeoutError) as error:
            reason = str(error.strerror or error) if isinstance(error, OSError) else ""
            raise ServiceUnreachable(f"{self.address} cannot be reached: {reason or 'no answer within 5 s'}") from None
        try:
            with suppress(ConnectionError):  # it may answer, and hang up, before it has read all of it
                writer.write(self._request_head(method, path, len(body), accept) + body)
                await writer.drain()
            response = ServiceResponse(reader)
            await response.read_head()
            yield response
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _request_head(self, method: str, path: str, length: int, accept: str) -> bytes:
        fields = [
            f"{method} {self._prefix}{path} HTTP/1.1",
            f"host: {self._authority}",
            f"user-agent: paceline/{__version__}",
            f"accept: {accept}",
            "content-type: application/json",
            f"content-length: {length}",
            "connection: close",
        ]
        if self._key is not None:
            fields.append(f"paceline-key: {self._key}")
        return ("\r\n".join(fields) + "\r\n\r\n").encode("latin-1")
