"""A byte-level client of the API under test, and bytes to send with it; for a byte-level server see raw_http_server."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from paceline.api.server.http_protocol import SlowClientTimeouts
from support.in_process_api import InProcessApi

SHORT = SlowClientTimeouts(receive_s=0.4, read_check_interval_s=0.4)
LONG = SlowClientTimeouts(receive_s=60.0, read_check_interval_s=60.0)
ITEM = {"upstream": "api", "path": "/x"}


class RawHttpClient:
    """A raw connection to the API."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def read_until(self, end: bytes) -> bytes:
        return await self._reader.readuntil(end)

    async def read_response(self, head: bytes = b"") -> tuple[int, Any]:
        """Read a response that has a length: status and decoded body. `head`: its head, if read already."""
        text = (head or await self.read_until(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(text.partition("content-length: ")[2].partition("\r\n")[0])
        return int(text.split()[1]), json.loads(await self._reader.readexactly(length))

    async def read(self) -> bytes:
        return await self._reader.read(65_536)

    async def read_until_close(self, *, within_s: float = 10.0) -> bytes:
        """Read what still arrives until the connection is closed."""
        async with asyncio.timeout(within_s):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""


@asynccontextmanager
async def connect(api: InProcessApi, *, receive_buffer: int | None = None) -> AsyncIterator[RawHttpClient]:
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", api.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=2**16)
    try:
        yield RawHttpClient(reader, writer)
    finally:
        writer.close()


def post_bytes(*items: dict[str, Any], path: str = "/v1/batch", **fields: str) -> bytes:
    body = json.dumps({"requests": list(items)} if path == "/v1/batch" else items[0]).encode()
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{''.join(lines)}\r\n"
    ).encode() + body


GET_START = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
"""The lines of a request up to, but without, the empty line that ends its head."""

BATCH = post_bytes(ITEM)
