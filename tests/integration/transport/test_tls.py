"""TLS keeps the name the URL has, for SNI and for the certificate, whatever address was dialled."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from paceline.errors import ProtocolError, TlsFailed
from paceline.transport.egress import EgressGuard
from support.raw_http_server import OK_RESPONSE, ClientConnection, reply_with, serve_raw
from support.request_factory import build_request


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def loopback(host: str) -> list[str]:
    return ["127.0.0.1"]


async def test_the_name_is_sent_and_checked_while_the_address_is_pinned(open_transport, authority, ca_file):
    context = server_context(authority, "api.example")
    named: list[str | None] = []
    context.sni_callback = lambda sock, name, ctx: named.append(name)
    async with serve_raw(reply_with(OK_RESPONSE), context) as server:
        transport = open_transport(guard=EgressGuard(resolver=loopback), ca_file=ca_file)
        for _ in range(2):
            assert (await transport.send(build_request(server.url(host="api.example")))).body == b"ok"
        assert server.requests[0].header_values("host") == [f"api.example:{server.port}"]
    assert set(named) == {"api.example"}


async def test_a_certificate_may_name_an_address(open_transport, authority, ca_file):
    async with serve_raw(reply_with(OK_RESPONSE), server_context(authority, "127.0.0.1")) as server:
        assert (await open_transport(ca_file=ca_file).send(build_request(server.url()))).body == b"ok"


async def test_a_certificate_of_another_name_is_refused(open_transport, authority, ca_file):
    async with serve_raw(reply_with(OK_RESPONSE), server_context(authority, "other.example", "127.0.0.1")) as server:
        transport = open_transport(guard=EgressGuard(resolver=loopback), ca_file=ca_file)
        with pytest.raises(TlsFailed, match=r"api\.example") as caught:
            await transport.send(build_request(server.url(host="api.example")))
        assert not caught.value.sent
        assert server.requests == []


async def test_a_certificate_nobody_vouches_for_is_refused(open_transport, authority):
    async with serve_raw(reply_with(OK_RESPONSE), server_context(authority, "127.0.0.1")) as server:
        with pytest.raises(TlsFailed) as caught:
            await open_transport().send(build_request(server.url()))
        assert not caught.value.sent


async def test_a_server_that_does_not_speak_tls_was_never_sent_anything(open_transport):
    async def plain(caller: ClientConnection) -> None:
        await caller.reader.read(1)
        await caller.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serve_raw(plain) as server:
        with pytest.raises(TlsFailed) as caught:
            await open_transport().send(build_request(server.url().replace("http:", "https:")))
        assert not caught.value.sent


async def test_a_connection_closed_in_its_handshake_was_never_sent_anything(open_transport):
    async def shut(caller: ClientConnection) -> None:
        await caller.reader.read(1)

    async with serve_raw(shut) as server:
        with pytest.raises(TlsFailed) as caught:
            await open_transport().send(build_request(server.url().replace("http:", "https:")))
        assert not caught.value.sent


async def test_a_client_certificate_is_shown_where_one_is_set(open_transport, authority, ca_file, tmp_path):
    mine = authority.issue_cert("client@paceline.example")
    mine.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    mine.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    context = server_context(authority, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    shown: list[object] = []

    async def script(caller: ClientConnection) -> None:
        await caller.read_request()
        shown.append(caller.writer.get_extra_info("peercert"))
        await caller.write(OK_RESPONSE)
        await caller.wait_closed()

    async with serve_raw(script, context) as server:
        named = {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
        assert (await open_transport(ca_file=ca_file, **named).send(build_request(server.url()))).body == b"ok"
        assert shown
        assert shown[0]
        with pytest.raises((ProtocolError, TlsFailed)):
            await open_transport(ca_file=ca_file).send(build_request(server.url()))


async def test_a_cancelled_call_over_tls_closes_its_socket(open_transport, authority, ca_file):
    async def silent(caller: ClientConnection) -> None:
        await caller.read_request()
        asked.set()
        await caller.wait_closed()
        gone.set()

    asked, gone = asyncio.Event(), asyncio.Event()
    async with serve_raw(silent, server_context(authority, "127.0.0.1")) as server:
        call = asyncio.create_task(open_transport(ca_file=ca_file).send(build_request(server.url())))
        await asyncio.wait_for(asked.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(gone.wait(), 10)
