"""`sent` is false only when no byte can have reached the upstream; an attempt's moments are what they say."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from paceline.errors import ConnectFailed, DnsFailed, EgressDenied, ProtocolError
from paceline.transport.egress import EgressGuard
from support.raw_http_server import OK_RESPONSE, ClientConnection, reply_with, serve_raw
from support.request_factory import build_request
from tools.free_port import free_port
from tools.waiting import wait_until


async def test_a_refused_connection_was_never_sent(transport):
    request = build_request(f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(ConnectFailed, match="refused") as caught:
        await transport.send(request)
    assert not caught.value.sent
    assert request.exchange.written_at is None


async def test_a_connection_that_is_not_made_in_time_was_never_sent(open_transport):
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        transport = open_transport(connect_timeout_s=0.1)
        with pytest.raises(ConnectFailed, match="time") as caught:
            await transport.send(build_request(f"http://127.0.0.1:{full.getsockname()[1]}/"))
    assert not caught.value.sent


async def test_a_name_without_an_answer_was_never_sent(open_transport):
    async def lookup(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(DnsFailed, match=r"api\.example: Name or service not known") as caught:
        await open_transport(guard=EgressGuard(resolver=lookup)).send(build_request("http://api.example/"))
    assert not caught.value.sent


async def test_a_denied_address_was_never_sent(open_transport):
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        with pytest.raises(EgressDenied) as caught:
            await open_transport(allow_private=False).send(build_request(server.url()))
        assert not caught.value.sent
        assert server.connections == 0


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
)
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_request_that_was_taken_and_broke_off_may_have_been_acted_on(transport, said, how):
    async def script(caller: ClientConnection) -> None:
        await caller.read_request()
        await caller.write(said)
        await asyncio.sleep(0.01)
        if how == "reset":
            caller.reset()

    async with serve_raw(script) as server:
        with pytest.raises(ProtocolError) as caught:
            await transport.send(build_request(server.url(), "POST", body=b"order"))
        assert caught.value.sent
        assert len(server.requests) == 1


async def test_a_reset_before_the_request_was_read_counts_as_sent(transport):
    async def script(caller: ClientConnection) -> None:
        caller.reset()

    async with serve_raw(script) as server:
        request = build_request(server.url(), "POST", body=bytes(4 << 20))
        with pytest.raises((ProtocolError, ConnectFailed)) as caught:
            await transport.send(request)
        assert caught.value.sent == (request.exchange.written_at is not None)


async def test_written_is_told_live_and_answered_is_the_first_byte(transport):
    answered_first_byte = 0.0

    async def script(caller: ClientConnection) -> None:
        nonlocal answered_first_byte
        await caller.read_request()
        assert told, "the engine tells that it wrote before the answer comes"
        answered_first_byte = time.perf_counter()
        await caller.write(OK_RESPONSE[:1])
        await asyncio.sleep(0.3)
        await caller.write(OK_RESPONSE[1:])
        await caller.wait_closed()

    told: list[float] = []
    async with serve_raw(script) as server:
        request = build_request(server.url())
        exchange = request.exchange
        exchange.on_written = told.append
        started = time.perf_counter()
        await transport.send(request)
        ended = time.perf_counter()
    assert told == [exchange.written_at]
    assert started < exchange.written_at <= exchange.answered_at < ended
    assert exchange.answered_at >= answered_first_byte
    assert ended - exchange.answered_at > 0.2  # the rest of the answer came later


async def test_closing_the_engine_fails_calls_in_flight_and_closes_every_connection(open_transport):
    async def script(caller: ClientConnection) -> None:
        while True:
            await caller.read_request()
            if len(server.requests) == 1:
                await caller.write(OK_RESPONSE)

    transport = open_transport()
    async with serve_raw(script) as server:
        await transport.send(build_request(server.url()))
        call = asyncio.create_task(transport.send(build_request(server.url())))
        await wait_until(lambda: len(server.requests) == 2)
        await transport.close()
        with pytest.raises(ProtocolError) as caught:
            await call
        assert caught.value.sent
        await server.wait_all_closed()
        with pytest.raises(ConnectFailed, match="closed") as caught:
            await transport.send(build_request(server.url()))
        assert not caught.value.sent
