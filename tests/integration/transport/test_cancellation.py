"""A cancelled call closes its socket at once and leaks nothing, wherever it was when it was cancelled."""

from __future__ import annotations

import asyncio
import os
import random
import socket

import pytest

from paceline.transport.egress import EgressGuard
from support.raw_http_server import OK_RESPONSE, ClientConnection, reply_with, serve_raw
from support.request_factory import build_request
from tools.waiting import WAIT_TIMEOUT_S, wait_until


async def cancelled(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nConte", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
)
async def test_a_call_cancelled_while_it_waits_for_bytes_closes_its_socket(transport, said):
    gone = asyncio.Event()
    said_it = asyncio.Event()

    async def script(caller: ClientConnection) -> None:
        await caller.read_request()
        await caller.write(said)
        said_it.set()
        await caller.wait_closed()
        gone.set()

    async with serve_raw(script) as server:
        task = asyncio.create_task(transport.send(build_request(server.url())))
        await asyncio.wait_for(said_it.wait(), WAIT_TIMEOUT_S)
        await asyncio.sleep(0.02)
        await cancelled(task)
        await asyncio.wait_for(gone.wait(), WAIT_TIMEOUT_S)


async def test_a_call_cancelled_while_it_uploads_closes_its_socket(transport):
    async def script(caller: ClientConnection) -> None:
        await caller.reader.readuntil(b"\r\n\r\n")
        reading.set()
        await asyncio.sleep(0.05)
        await caller.wait_closed()
        gone.set()

    reading, gone = asyncio.Event(), asyncio.Event()
    async with serve_raw(script) as server:
        task = asyncio.create_task(transport.send(build_request(server.url(), "POST", body=bytes(20 << 20))))
        await asyncio.wait_for(reading.wait(), WAIT_TIMEOUT_S)
        await cancelled(task)
        await asyncio.wait_for(gone.wait(), WAIT_TIMEOUT_S)


async def test_a_call_cancelled_in_its_tls_handshake_closes_its_socket(transport):
    async def silent(caller: ClientConnection) -> None:
        greeted.set()
        await caller.wait_closed()
        gone.set()

    greeted, gone = asyncio.Event(), asyncio.Event()
    async with serve_raw(silent) as server:
        task = asyncio.create_task(transport.send(build_request(server.url().replace("http:", "https:"))))
        await asyncio.wait_for(greeted.wait(), WAIT_TIMEOUT_S)
        await asyncio.sleep(0.05)
        await cancelled(task)
        await asyncio.wait_for(gone.wait(), WAIT_TIMEOUT_S)


async def test_a_call_cancelled_while_it_connects_closes_its_socket(transport):
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        before = len(os.listdir("/proc/self/fd"))
        task = asyncio.create_task(transport.send(build_request(f"http://127.0.0.1:{full.getsockname()[1]}/")))
        await asyncio.sleep(0.05)
        await cancelled(task)
        await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) == before


async def test_a_call_cancelled_in_its_lookup_leaves_the_others_their_answer(open_transport):
    asked = asyncio.Event()
    answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    async def lookup(host: str) -> list[str]:
        asked.set()
        return await asyncio.shield(answer)

    transport = open_transport(guard=EgressGuard(resolver=lookup))
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        url = server.url(host="api.example")
        impatient, patient = (asyncio.create_task(transport.send(build_request(url))) for _ in range(2))
        await asyncio.wait_for(asked.wait(), WAIT_TIMEOUT_S)
        await cancelled(impatient)
        answer.set_result(["127.0.0.1"])
        assert (await patient).body == b"ok"


async def test_a_thousand_random_cancels_leak_nothing(open_transport):
    chance = random.Random(7)

    async def script(caller: ClientConnection) -> None:
        while True:
            await caller.read_request()
            await asyncio.sleep(chance.random() * 0.004)
            await caller.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            await asyncio.sleep(chance.random() * 0.004)
            await caller.write(b"half")

    async with serve_raw(script) as server:
        await asyncio.sleep(0)
        before = len(os.listdir("/proc/self/fd"))
        transport = open_transport()
        answered = cut_short = 0

        async def one() -> None:
            nonlocal answered, cut_short
            task = asyncio.create_task(transport.send(build_request(server.url())))
            if chance.random() < 0.9:
                await asyncio.sleep(chance.random() * 0.03)
                task.cancel()
            try:
                assert (await task).body == b"halfhalf"
                answered += 1
            except asyncio.CancelledError:
                cut_short += 1

        for _ in range(20):
            await asyncio.gather(*(one() for _ in range(50)))
        assert answered > 0
        assert cut_short > 0
        assert (await transport.send(build_request(server.url()))).body == b"halfhalf"
        await transport.close()
        await server.wait_all_closed()
        await wait_until(lambda: len(os.listdir("/proc/self/fd")) == before)
