"""A server that says exactly the bytes a test scripts, and the small words the transport tests are written in."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from paceline.model import Exchange, Headers, Receipt, Request, RetryPolicy
from paceline.transport.url import parse_url

PATIENCE_S = 10.0
"""How long a test waits for what must come: long, since the machine may be busy."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Seen:
    """One request as it arrived."""

    line: str
    fields: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name]


class Caller:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: Server) -> None:
        self.reader, self.writer, self._server = reader, writer, server

    async def request(self) -> Seen:
        """Read one whole request; EOFError when the connection ends first."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError as error:
            raise EOFError from error
        line, *rest = head.removesuffix("\r\n\r\n").split("\r\n")
        fields = [(name, value.strip()) for name, _, value in (each.partition(":") for each in rest)]
        length = next((int(value) for name, value in fields if name.lower() == "content-length"), 0)
        seen = Seen(line, fields, await self.reader.readexactly(length))
        self._server.requests.append(seen)
        return seen

    async def say(self, *parts: bytes) -> None:
        if self.writer.transport.is_closing():
            raise ConnectionResetError
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the other end is closed."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await self.reader.read(65536):
                    pass
        except ConnectionError:
            pass

    def reset(self) -> None:
        """End the connection with RST rather than FIN."""
        import socket
        import struct

        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def eventually(true: Callable[[], bool]) -> None:
    """Wait until it is true; TimeoutError when it never is."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - a condition of any kind, not only one that can set an event
            await asyncio.sleep(0.005)


Script = Callable[[Caller], Awaitable[None]]


@dataclass
class Server:
    host: str = "127.0.0.1"
    port: int = 0
    scheme: str = "http"
    requests: list[Seen] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    faults: list[BaseException] = field(default_factory=list)

    def url(self, path: str = "/", host: str | None = None) -> str:
        return f"{self.scheme}://{host or self.host}:{self.port}{path}"

    async def all_closed(self) -> None:
        """Wait until the other end of every connection is closed."""
        await eventually(lambda: not self.open)


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server on loopback that runs `script` for each connection; what the script raises fails the test."""
    server = Server(scheme="https" if tls else "http")
    running: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        server.open += 1
        try:
            await script(Caller(reader, writer, server))
        except (EOFError, ConnectionError, ssl.SSLError):
            pass
        except Exception as error:
            server.faults.append(error)
        finally:
            server.open -= 1
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(connected(reader, writer))
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
        if server.faults:
            raise server.faults[0]


def answers(*replies: bytes) -> Script:
    """On each connection, one of these for each request, the last one for all that follow."""

    async def script(caller: Caller) -> None:
        left = list(replies)
        while True:
            await caller.request()
            await caller.say(left.pop(0) if len(left) > 1 else left[0])

    return script


def answers_and_closes(reply: bytes) -> Script:
    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.say(reply)
        caller.writer.write_eof()
        await caller.gone()

    return script


def response(body: bytes = b"", *lines: str, status: str = "200 OK") -> bytes:
    """A whole answer with these header lines and a right Content-Length."""
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", ""))
    return head.encode("latin-1") + body


def ask(url: str, method: str = "GET", headers: Headers = (), body: bytes = b"") -> Request:
    return Request(method, parse_url(url), headers, body, float("inf"), Receipt(), Exchange(), RetryPolicy())
