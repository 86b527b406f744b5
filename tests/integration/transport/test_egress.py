"""Only what the guard answered is dialled: one lookup a connection, every answer judged, before any socket."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from paceline.errors import ConnectFailed, DnsFailed, EgressDenied
from paceline.transport.egress import EgressGuard
from paceline.transport.resolver import SystemResolver
from support.raw_http_server import OK_RESPONSE, build_response, reply_with, serve_raw
from support.request_factory import build_request
from tools.waiting import wait_until


def guard_with(*addresses: str, **settings: object) -> EgressGuard:
    async def lookup(host: str) -> list[str]:
        asked.append(host)
        return list(addresses)

    asked: list[str] = []
    guard = EgressGuard(resolver=lookup, **settings)
    guard.asked = asked
    return guard


@pytest.fixture
def no_other_resolver(monkeypatch):
    """Every other way to a name's address fails the test."""

    def refuse(*args: object, **kwargs: object) -> object:
        raise AssertionError(f"somebody asked the system for {args}")

    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)


async def test_names_are_answered_by_the_guard_alone_once_a_connection(open_transport, no_other_resolver):
    guard = guard_with("127.0.0.1")
    async with serve_raw(reply_with(build_response(b"", "Connection: close"))) as server:
        transport = open_transport(guard=guard)
        for _ in range(2):
            await transport.send(build_request(server.url(host="api.example")))
        assert guard.asked == ["api.example"] * 2
        assert server.requests[0].header_values("host") == [f"api.example:{server.port}"]


async def test_an_address_written_out_is_judged_without_a_lookup(open_transport, no_other_resolver):
    guard = guard_with()
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        assert (await open_transport(guard=guard).send(build_request(server.url()))).status == 200
    assert guard.asked == []


@pytest.mark.parametrize("bad", ["169.254.169.254", "::ffff:169.254.169.254", "224.0.0.1"])
async def test_one_bad_answer_denies_them_all(open_transport, bad):
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        transport = open_transport(guard=guard_with("127.0.0.1", bad))
        with pytest.raises(EgressDenied, match=r"api\.example"):
            await transport.send(build_request(server.url(host="api.example")))
        assert server.connections == 0


async def test_an_address_that_refuses_leaves_the_next_its_turn(open_transport):
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        transport = open_transport(guard=guard_with("127.0.0.99", "127.0.0.1"))
        assert (await transport.send(build_request(server.url(host="api.example")))).body == b"ok"


async def test_an_address_that_stays_silent_leaves_the_next_its_turn(open_transport):
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        with socket.socket() as silent, socket.socket() as first, socket.socket() as second:
            silent.bind(("127.0.0.99", server.port))
            silent.listen(0)
            for filler in (first, second):
                filler.setblocking(False)
                filler.connect_ex(silent.getsockname())
            transport = open_transport(guard=guard_with("127.0.0.99", "127.0.0.1"), connect_timeout_s=1.0)
            assert (await transport.send(build_request(server.url(host="api.example")))).body == b"ok"


async def test_a_socket_that_met_itself_is_no_upstream(open_transport, monkeypatch):
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        monkeypatch.setattr(socket.socket, "getsockname", socket.socket.getpeername)
        with pytest.raises(ConnectFailed, match="refused"):
            await open_transport().send(build_request(server.url()))
        monkeypatch.undo()
        await wait_until(lambda: server.connections == 1)
        await server.wait_all_closed()
        assert server.requests == []


async def test_when_every_address_refuses_the_call_fails(open_transport):
    transport = open_transport(guard=guard_with("127.0.0.98", "127.0.0.99"))
    with pytest.raises(ConnectFailed, match="refused"):
        await transport.send(build_request("http://api.example:9/"))


async def test_a_resolver_that_hangs_does_not_outlive_its_time(open_transport):
    async def lookup(host: str) -> list[str]:
        await asyncio.Event().wait()
        return []

    transport = open_transport(guard=EgressGuard(resolver=lookup), dns_timeout_s=0.1)
    start = time.perf_counter()
    with pytest.raises(DnsFailed, match=r"within 0\.1 s") as caught:
        await transport.send(build_request("http://api.example/"))
    assert time.perf_counter() - start < 5
    assert not caught.value.sent


async def test_a_system_resolver_that_hangs_in_its_thread_holds_up_nobody_else(open_transport):
    import threading

    released = threading.Event()

    def system(host: str) -> list[str]:
        if host == "hung.example":
            released.wait(20)
        return ["127.0.0.1"]

    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        transport = open_transport(guard=EgressGuard(resolver=SystemResolver(system)), dns_timeout_s=0.3)
        hung = [asyncio.create_task(transport.send(build_request(server.url(host="hung.example")))) for _ in range(50)]
        await asyncio.sleep(0)
        assert (await transport.send(build_request(server.url(host="api.example")))).body == b"ok"
        results = await asyncio.gather(*hung, return_exceptions=True)
        assert {type(each) for each in results} == {DnsFailed}
        released.set()
        await asyncio.sleep(0.05)  # the thread's late answer finds nobody and harms nothing
        assert (await transport.send(build_request(server.url(host="hung.example")))).body == b"ok"


async def test_the_system_s_own_resolver_answers(open_transport):
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        assert (
            await open_transport(allow_private=True).send(build_request(server.url(host="localhost")))
        ).body == b"ok"


async def test_our_own_listener_is_never_dialled(open_transport):
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        guard = guard_with("127.0.0.1", listeners=[("0.0.0.0", server.port)], allow=["127.0.0.0/8"])
        transport = open_transport(guard=guard)
        for url in (server.url(), server.url(host="api.example")):
            with pytest.raises(EgressDenied, match="own listener"):
                await transport.send(build_request(url))
        assert server.connections == 0
