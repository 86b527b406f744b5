"""The caller's deadline holds whatever the upstream does with its time."""

from __future__ import annotations

import asyncio
import time

import pytest

from paceline.errors import ProtocolError
from support.raw_http_server import OK_RESPONSE, ClientConnection, serve_raw
from support.request_factory import build_request

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def drip(caller: ClientConnection, first: bytes, drop: bytes) -> None:
    await caller.read_request()
    await caller.write(first)
    while drop:
        await caller.write(drop)
        await asyncio.sleep(0.005)
    await caller.wait_closed()


@pytest.mark.parametrize(
    ("first", "drop"),
    [(b"", b""), (b"", b"H"), (b"HTTP/1.1 200 OK\r\nX: ", b"x"), (HEAD, b"1\r\nx\r\n")],
    ids=["silence", "a dripping status line", "a dripping header", "a dripping body"],
)
async def test_a_total_deadline_holds_and_closes_the_socket(transport, first, drop):
    async with serve_raw(lambda caller: drip(caller, first, drop)) as server:
        start = time.perf_counter()
        # A status line that is none may be found out before the time is over; then it is an error of its own.
        with pytest.raises((TimeoutError, ProtocolError)):
            async with asyncio.timeout(0.15):
                await transport.send(build_request(server.url()))
        assert time.perf_counter() - start < 5
        await server.wait_all_closed()


async def test_a_flood_of_early_hints_ends_early_and_closes_the_socket(transport):
    async def flood(caller: ClientConnection) -> None:
        await caller.read_request()
        while True:
            await caller.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 1000)

    async with serve_raw(flood) as server:
        with pytest.raises(ProtocolError) as caught:
            async with asyncio.timeout(10):
                await transport.send(build_request(server.url()))
        assert caught.value.sent
        await server.wait_all_closed()


async def test_a_slow_flood_of_early_hints_cannot_pass_the_deadline(transport):
    async with serve_raw(lambda caller: drip(caller, b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15):
                await transport.send(build_request(server.url()))
        await server.wait_all_closed()


async def test_interim_answers_are_passed_over(transport):
    async def script(caller: ClientConnection) -> None:
        await caller.read_request()
        await caller.write(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        await asyncio.sleep(0.01)
        await caller.write(b"HTTP/1.1 103 Early Hints\r\n\r\n", OK_RESPONSE)
        await caller.wait_closed()

    async with serve_raw(script) as server:
        answer = await transport.send(build_request(server.url()))
        assert (answer.status, answer.body) == (200, b"ok")
        assert answer.header("link") is None
