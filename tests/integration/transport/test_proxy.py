"""Through a declared proxy: plain requests whole, https through a tunnel, and nothing the guard would refuse."""

from __future__ import annotations

import asyncio
import base64
import ssl

import pytest
import trustme

from paceline.errors import ConnectFailed, EgressDenied, InvalidRequest
from paceline.transport.egress import EgressGuard
from support.raw_http_server import OK_RESPONSE, ClientConnection, reply_with, serve_raw
from support.request_factory import build_request


def nobody_looks_up() -> EgressGuard:
    async def lookup(host: str) -> list[str]:
        raise AssertionError(f"the proxy looks {host} up, not we")

    return EgressGuard(resolver=lookup)


async def test_a_plain_request_goes_to_the_proxy_with_its_whole_url_and_credentials(open_transport):
    async with serve_raw(reply_with(OK_RESPONSE)) as proxy:
        transport = open_transport(guard=nobody_looks_up(), proxy=f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        answer = await transport.send(
            build_request("http://api.example/p?q=1", headers=(("Proxy-Authorization", "mine"),))
        )
        (seen,) = proxy.requests
    assert answer.body == b"ok"
    assert seen.line == "GET http://api.example/p?q=1 HTTP/1.1"
    assert seen.header_values("host") == ["api.example"]
    assert seen.header_values("proxy-authorization") == ["Basic " + base64.b64encode(b"me:p@ss").decode()]


async def test_https_goes_through_a_tunnel_and_the_certificate_is_the_origin_s(open_transport, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.example").configure_cert(context)

    async with serve_raw(reply_with(OK_RESPONSE), context) as origin:

        async def tunnel(caller: ClientConnection) -> None:
            await caller.read_request()
            reader, writer = await asyncio.open_connection("127.0.0.1", origin.port)
            await caller.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

            async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while chunk := await source.read(65536):
                    sink.write(chunk)
                sink.close()

            try:
                await asyncio.gather(pump(caller.reader, writer), pump(reader, caller.writer))
            finally:
                writer.transport.abort()

        async with serve_raw(tunnel) as proxy:
            transport = open_transport(
                guard=nobody_looks_up(), proxy=f"http://me:pw@127.0.0.1:{proxy.port}", ca_file=str(tmp_path / "ca.pem")
            )
            assert (await transport.send(build_request("https://api.example/secret"))).body == b"ok"
            await transport.close()
            (asked,) = proxy.requests
        (seen,) = origin.requests
    assert asked.line == "CONNECT api.example:443 HTTP/1.1"
    assert asked.header_values("proxy-authorization")
    assert seen.line == "GET /secret HTTP/1.1"
    assert seen.header_values("proxy-authorization") == []


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nsurplus",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"x" * 100_000,
        b"",
    ],
)
async def test_a_proxy_that_gives_no_tunnel_means_nothing_was_sent(open_transport, reply):
    async def script(caller: ClientConnection) -> None:
        await caller.read_request()
        await caller.write(reply)
        caller.writer.write_eof()
        await caller.wait_closed()

    async with serve_raw(script) as proxy:
        transport = open_transport(guard=nobody_looks_up(), proxy=f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(ConnectFailed, match="proxy") as caught:
            await transport.send(build_request("https://api.example/"))
        assert not caught.value.sent
        await proxy.wait_all_closed()


async def test_a_proxy_is_no_way_round_the_guard(open_transport):
    async with serve_raw(reply_with(OK_RESPONSE)) as proxy:
        transport = open_transport(allow_private=False, proxy=f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(EgressDenied):
            await transport.send(build_request("http://169.254.169.254/latest/"))
        with pytest.raises(EgressDenied):
            await transport.send(build_request("http://10.0.0.1/"))
        assert proxy.connections == 0


@pytest.mark.parametrize(
    "proxy", ["https://proxy.example:8080", "socks5://proxy.example:1080", "http://", "proxy:3128"]
)
def test_a_proxy_that_cannot_be_used_is_refused_when_the_engine_opens(engine_name, proxy):
    from paceline.transport.base import TransportOptions
    from paceline.transport.connector import Connector

    with pytest.raises(InvalidRequest):
        Connector(TransportOptions(proxy=proxy), EgressGuard())
