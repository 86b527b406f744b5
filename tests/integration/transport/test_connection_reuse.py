"""A kept connection is used again only while it is certain that nothing of it belongs to somebody else."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

import pytest

from paceline.errors import ProtocolError
from support.raw_http_server import OK_RESPONSE, ClientConnection, build_response, reply_with, serve_raw
from support.request_factory import build_request
from tools.waiting import WAIT_TIMEOUT_S

FORGED = build_response(b"stolen", "X-Forged: yes")


async def sent(transport, url, method="GET", body=b""):
    request = build_request(url, method, body=body)
    return await transport.send(request), request.exchange


async def test_aiohttp_keeps_connections_and_httpx_does_not(transport, engine_name):
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        reused = [(await sent(transport, server.url(f"/{n}")))[1].reused for n in range(3)]
    kept = engine_name == "aiohttp"
    assert reused == [False, kept, kept]
    assert server.connections == (1 if kept else 3)


async def test_connections_of_different_origins_are_not_mixed_up(transport):
    async with (
        serve_raw(reply_with(build_response(b"one"))) as one,
        serve_raw(reply_with(build_response(b"two"))) as two,
    ):
        for _ in range(2):
            assert (await sent(transport, one.url()))[0].body == b"one"
            assert (await sent(transport, two.url()))[0].body == b"two"


@pytest.mark.parametrize("surplus", [FORGED, b"garbage", b"\r\n", b"H"])
async def test_bytes_in_the_same_packet_as_the_answer_never_reach_the_next_caller(transport, surplus):
    async def script(caller: ClientConnection) -> None:
        while True:
            await caller.read_request()
            await caller.write(build_response(b"mine"), surplus if len(server.requests) == 1 else b"")

    async with serve_raw(script) as server:
        with suppress(ProtocolError):  # an engine may refuse the answer that had them
            assert (await sent(transport, server.url()))[0].body == b"mine"
        for _ in range(3):
            assert (await sent(transport, server.url()))[0].body == b"mine"


@pytest.mark.parametrize("surplus", [FORGED, b"garbage", b"H"])
@pytest.mark.parametrize("seen_by_the_loop", [True, False])
async def test_bytes_on_an_idle_connection_never_reach_the_next_caller(transport, surplus, seen_by_the_loop):
    async def script(caller: ClientConnection) -> None:
        callers.append(caller)
        while True:
            await caller.read_request()
            await caller.write(build_response(b"mine"))

    callers: list[ClientConnection] = []
    async with serve_raw(script) as server:
        for _ in range(10):
            assert (await sent(transport, server.url()))[0].body == b"mine"
            if callers[-1].writer.transport.is_closing():
                continue  # an engine without keep-alive
            # Straight into the kernel: the next call begins before the loop can look.
            with suppress(ConnectionError):
                os.write(callers[-1].writer.get_extra_info("socket").fileno(), surplus)
            if seen_by_the_loop:
                await asyncio.sleep(0.01)
            answer, exchange = await sent(transport, server.url())
            assert answer.body == b"mine"
            assert answer.header("x-forged") is None
            assert not exchange.reused


@pytest.mark.parametrize("head", ["HTTP/1.1 200 OK\r\nConnection: close", "HTTP/1.0 200 OK"])
async def test_a_connection_the_upstream_will_not_keep_is_closed(transport, head):
    reply = f"{head}\r\nContent-Length: 2\r\n\r\nok".encode()
    async with serve_raw(reply_with(reply)) as server:
        for _ in range(2):
            answer, exchange = await sent(transport, server.url())
            assert answer.body == b"ok"
            assert not exchange.reused
        await server.wait_all_closed()


@pytest.mark.parametrize(("said", "kept"), [("timeout=1", False), ("timeout=60, max=9", True), ("max=9", True)])
async def test_the_upstream_s_own_keep_alive_time_is_heeded(transport, engine_name, said, kept):
    async with serve_raw(reply_with(build_response(b"", f"Keep-Alive: {said}"))) as server:
        await sent(transport, server.url())
        assert (await sent(transport, server.url()))[1].reused == (kept and engine_name == "aiohttp")


async def test_an_idle_connection_is_closed_when_it_has_grown_old(transport, monkeypatch):
    monkeypatch.setattr("paceline.transport.aiohttp.KEEP_ALIVE_S", 0.1)
    monkeypatch.setattr("paceline.transport.aiohttp._PooledConnection.keep_alive_s", 0.1)
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        await sent(transport, server.url())
        await server.wait_all_closed()
        assert not (await sent(transport, server.url()))[1].reused


@pytest.mark.parametrize("seen_by_the_loop", [True, False])
async def test_a_connection_closed_while_idle_costs_the_next_call_nothing(transport, seen_by_the_loop):
    async def script(caller: ClientConnection) -> None:
        callers.append(caller)
        while True:
            await caller.read_request()
            await caller.write(OK_RESPONSE)

    callers: list[ClientConnection] = []
    async with serve_raw(script) as server:
        for _ in range(5):
            answer, exchange = await sent(transport, server.url(), "POST", b"x")
            assert (answer.status, exchange.reused) == (200, False)
            with suppress(OSError):  # an engine without keep-alive has closed it already
                fileno = callers[-1].writer.get_extra_info("socket").fileno()
                with socket.socket(fileno=os.dup(fileno)) as end:
                    end.shutdown(socket.SHUT_WR)
            if seen_by_the_loop:
                await asyncio.sleep(0.01)
    assert len(server.requests) == 5


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_that_a_kept_connection_swallows_is_never_sent_again_by_the_engine(transport, method):
    async def script(caller: ClientConnection) -> None:
        await caller.read_request()
        if len(server.requests) == 1:
            await caller.write(OK_RESPONSE)
            await caller.read_request()
        caller.reset()

    async with serve_raw(script) as server:
        await sent(transport, server.url())
        with pytest.raises(ProtocolError) as caught:
            await sent(transport, server.url(), method, b"order")
        assert caught.value.sent
        assert len(server.requests) == 2


async def test_a_connection_whose_request_was_not_taken_whole_is_not_kept(transport):
    async def early(caller: ClientConnection) -> None:
        await caller.reader.readuntil(b"\r\n\r\n")
        await caller.write(build_response(b"", status="413 Content Too Large"))
        await caller.wait_closed()

    async with serve_raw(early) as server:
        answer, _ = await sent(transport, server.url(), "POST", bytes(32 << 20))
        assert answer.status == 413
        assert not (await sent(transport, server.url(), "POST", b"x"))[1].reused


async def test_a_failed_call_s_connection_is_not_kept(transport):
    async def script(caller: ClientConnection) -> None:
        await caller.read_request()
        await caller.write(build_response(b"not gzip at all", "Content-Encoding: gzip"))
        await caller.wait_closed()

    async with serve_raw(script) as server:
        for _ in range(2):
            with pytest.raises(ProtocolError):
                await sent(transport, server.url())
        assert server.connections == 2
        await server.wait_all_closed()


async def test_nothing_queues_inside_the_engine(transport):
    async def script(caller: ClientConnection) -> None:
        await caller.read_request()
        arrived.release()
        await asyncio.wait_for(go.wait(), WAIT_TIMEOUT_S)
        await caller.write(OK_RESPONSE)
        await caller.wait_closed()

    go, arrived = asyncio.Event(), asyncio.Semaphore(0)
    async with serve_raw(script) as server:
        calls = [asyncio.create_task(transport.send(build_request(server.url()))) for _ in range(250)]
        for _ in calls:
            await asyncio.wait_for(arrived.acquire(), WAIT_TIMEOUT_S)
        go.set()
        assert {(await call).status for call in calls} == {200}
