"""Through a declared proxy: plain requests whole, https through a tunnel, and nothing the guard would refuse."""

from __future__ import annotations

import asyncio
import base64
import ssl

import pytest
import trustme

from paceline.errors import ConnectFailed, EgressDenied, InvalidRequest
from paceline.transport.egress import Guard
from wire import OK, Caller, answers, ask, serving


def nobody_looks_up() -> Guard:
    async def lookup(host: str) -> list[str]:
        raise AssertionError(f"the proxy looks {host} up, not we")

    return Guard(lookup=lookup)


async def test_a_plain_request_goes_to_the_proxy_with_its_whole_url_and_credentials(open_transport):
    async with serving(answers(OK)) as proxy:
        transport = open_transport(guard=nobody_looks_up(), proxy=f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        answer = await transport.send(ask("http://api.example/p?q=1", headers=(("Proxy-Authorization", "mine"),)))
        (seen,) = proxy.requests
    assert answer.body == b"ok"
    assert seen.line == "GET http://api.example/p?q=1 HTTP/1.1"
    assert seen.all("host") == ["api.example"]
    assert seen.all("proxy-authorization") == ["Basic " + base64.b64encode(b"me:p@ss").decode()]


async def test_https_goes_through_a_tunnel_and_the_certificate_is_the_origin_s(open_transport, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.example").configure_cert(context)

    async with serving(answers(OK), context) as origin:

        async def tunnel(caller: Caller) -> None:
            await caller.request()
            reader, writer = await asyncio.open_connection("127.0.0.1", origin.port)
            await caller.say(b"HTTP/1.1 200 Connection established\r\n\r\n")

            async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while chunk := await source.read(65536):
                    sink.write(chunk)
                sink.close()

            try:
                await asyncio.gather(pump(caller.reader, writer), pump(reader, caller.writer))
            finally:
                writer.transport.abort()

        async with serving(tunnel) as proxy:
            transport = open_transport(
                guard=nobody_looks_up(), proxy=f"http://me:pw@127.0.0.1:{proxy.port}", ca_file=str(tmp_path / "ca.pem")
            )
            assert (await transport.send(ask("https://api.example/secret"))).body == b"ok"
            await transport.close()
            (asked,) = proxy.requests
        (seen,) = origin.requests
    assert asked.line == "CONNECT api.example:443 HTTP/1.1"
    assert asked.all("proxy-authorization")
    assert seen.line == "GET /secret HTTP/1.1"
    assert seen.all("proxy-authorization") == []


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
    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.say(reply)
        caller.writer.write_eof()
        await caller.gone()

    async with serving(script) as proxy:
        transport = open_transport(guard=nobody_looks_up(), proxy=f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(ConnectFailed, match="proxy") as caught:
            await transport.send(ask("https://api.example/"))
        assert not caught.value.sent
        await proxy.all_closed()


async def test_a_proxy_is_no_way_round_the_guard(open_transport):
    async with serving(answers(OK)) as proxy:
        transport = open_transport(allow_private=False, proxy=f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(EgressDenied):
            await transport.send(ask("http://169.254.169.254/latest/"))
        with pytest.raises(EgressDenied):
            await transport.send(ask("http://10.0.0.1/"))
        assert proxy.connections == 0


@pytest.mark.parametrize(
    "proxy", ["https://proxy.example:8080", "socks5://proxy.example:1080", "http://", "proxy:3128"]
)
def test_a_proxy_that_cannot_be_used_is_refused_when_the_engine_opens(engine_name, proxy):
    from paceline.transport.base import Wire
    from paceline.transport.dial import Dialler

    with pytest.raises(InvalidRequest):
        Dialler(Wire(proxy=proxy), Guard())
