"""A byte-level server: one coroutine of the test for each connection, from its first byte.

It can act before, between and inside requests, in TLS handshakes and CONNECT tunnels. For responses to requests by path
see `tools.scripted_upstream`; for a byte-level client of the API see `raw_http_client`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tools.tcp_reset import reset_connection
from tools.waiting import WAIT_TIMEOUT_S, wait_until

OK_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class RawRequest:
    """One request as it arrived."""

    line: str
    header_fields: list[tuple[str, str]]
    body: bytes

    def header_values(self, name: str) -> list[str]:
        return [value for key, value in self.header_fields if key.lower() == name]


class ClientConnection:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: RawHttpServer) -> None:
        self.reader, self.writer, self._server = reader, writer, server

    async def read_request(self) -> RawRequest:
        """Read one whole request; EOFError when the connection ends first."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError as error:
            raise EOFError from error
        line, *rest = head.removesuffix("\r\n\r\n").split("\r\n")
        fields = [(name, value.strip()) for name, _, value in (each.partition(":") for each in rest)]
        length = next((int(value) for name, value in fields if name.lower() == "content-length"), 0)
        seen = RawRequest(line, fields, await self.reader.readexactly(length))
        self._server.requests.append(seen)
        return seen

    async def write(self, *parts: bytes) -> None:
        if self.writer.transport.is_closing():
            raise ConnectionResetError
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def wait_closed(self) -> None:
        """Wait until the other end is closed."""
        try:
            async with asyncio.timeout(WAIT_TIMEOUT_S):
                while await self.reader.read(65536):
                    pass
        except ConnectionError:
            pass

    def reset(self) -> None:
        """End the connection with RST rather than FIN."""
        reset_connection(self.writer.transport)


Script = Callable[[ClientConnection], Awaitable[None]]


@dataclass
class RawHttpServer:
    host: str = "127.0.0.1"
    port: int = 0
    scheme: str = "http"
    requests: list[RawRequest] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    script_errors: list[BaseException] = field(default_factory=list)

    def url(self, path: str = "/", host: str | None = None) -> str:
        return f"{self.scheme}://{host or self.host}:{self.port}{path}"

    async def wait_all_closed(self) -> None:
        """Wait until the other end of every connection is closed."""
        await wait_until(lambda: not self.open_connections)


@asynccontextmanager
async def serve_raw(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawHttpServer]:
    """A server on loopback that runs `script` for each connection; what the script raises fails the test."""
    server = RawHttpServer(scheme="https" if tls else "http")
    running: set[asyncio.Task[None]] = set()

    async def handle_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        server.open_connections += 1
        try:
            await script(ClientConnection(reader, writer, server))
        except (EOFError, ConnectionError, ssl.SSLError):
            pass
        except Exception as error:
            server.script_errors.append(error)
        finally:
            server.open_connections -= 1
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(handle_connection(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    listener = await asyncio.start_server(accept, server.host, 0, ssl=tls, limit=1 << 20)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.sleep(0)
        if server.script_errors:
            raise server.script_errors[0]


def reply_with(*replies: bytes) -> Script:
    """On each connection, one of these for each request, the last one for all that follow."""

    async def script(caller: ClientConnection) -> None:
        remaining = list(replies)
        while True:
            await caller.read_request()
            await caller.write(remaining.pop(0) if len(remaining) > 1 else remaining[0])

    return script


def reply_and_close(reply: bytes) -> Script:
    async def script(caller: ClientConnection) -> None:
        await caller.read_request()
        await caller.write(reply)
        caller.writer.write_eof()
        await caller.wait_closed()

    return script


def build_response(body: bytes = b"", *lines: str, status: str = "200 OK") -> bytes:
    """A whole answer with these header lines and a right Content-Length."""
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", ""))
    return head.encode("latin-1") + body
