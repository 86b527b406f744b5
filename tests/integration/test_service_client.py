"""The client of a running service, against scripted answers on real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from paceline.cli.io.service_client import ConnectionLost, ServiceClient, ServiceErrorResponse, ServiceUnreachable
from paceline.cli.usage_error import UsageError
from tools.scripted_upstream import (
    Handler,
    Peer,
    ReceivedRequest,
    ScriptedUpstream,
    disconnect,
    never_respond,
    reset_connection,
    response_head,
    send_garbage,
    send_raw,
    truncate_body,
)

STREAM = {"content-type": "application/x-ndjson", "transfer-encoding": "chunked"}
END = b"0\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


@pytest_asyncio.fixture
async def client(upstream: ScriptedUpstream) -> AsyncIterator[ServiceClient]:
    async with aclosing(ServiceClient(upstream.url, "a-key")) as client:
        yield client


async def lines_of(client: ServiceClient) -> list[bytes]:
    async with client.stream("POST", "/v1/batch", b"{}") as response:
        return [line async for line in response.iter_lines()]


async def test_a_line_is_given_as_soon_as_it_has_arrived(upstream: ScriptedUpstream, client: ServiceClient) -> None:
    first_read = asyncio.Event()

    async def waits_between(request: ReceivedRequest, peer: Peer) -> None:
        peer.write(response_head(200, STREAM) + chunk(b"first\n"))
        await first_read.wait()
        peer.write(chunk(b"second\n") + END)

    upstream.script("/v1/batch", waits_between)
    lines = []
    async with asyncio.timeout(10), client.stream("POST", "/v1/batch", b"{}") as response:
        async for line in response.iter_lines():
            lines.append(line)
            first_read.set()
    assert lines == [b"first", b"second"]


async def test_lines_end_at_newlines_alone_however_they_are_cut(
    upstream: ScriptedUpstream, client: ServiceClient
) -> None:
    text = "a\u2028b\r".encode()  # JSON allows the first in a string
    upstream.script(
        "/v1/batch",
        send_raw(
            response_head(200, STREAM), *(chunk(text[at : at + 1]) for at in range(len(text))), chunk(b"\n\nlast"), END
        ),
    )
    assert await lines_of(client) == [text, b"", b"last"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [(disconnect(), "cut short"), (reset_connection(), "reset by peer"), (send_garbage(), "no HTTP")],
    ids=["closed", "reset", "not HTTP"],
)
async def test_a_connection_that_ends_before_the_response_is_lost_not_refused(
    upstream: ScriptedUpstream, client: ServiceClient, script: Handler, reason: str
) -> None:
    upstream.script("/v1/batch", script)
    with pytest.raises(ConnectionLost, match=reason):
        await lines_of(client)
    with pytest.raises(UsageError, match=reason):
        await client.call("POST", "/v1/batch")


@pytest.mark.parametrize(
    "script",
    [truncate_body(), reset_connection(response_head(200, STREAM) + chunk(b"first\n"))],
    ids=["closed", "reset"],
)
async def test_a_body_that_ends_early_is_a_lost_connection(
    upstream: ScriptedUpstream, client: ServiceClient, script: Handler
) -> None:
    upstream.script("/v1/batch", script)
    with pytest.raises(ConnectionLost):
        await lines_of(client)
    with pytest.raises(ConnectionLost):
        async with client.stream("POST", "/v1/batch") as response:
            await response.read_body()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_port_where_no_service_listens_is_unreachable(host: str) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with aclosing(ServiceClient(f"http://{host}:{bound.getsockname()[1]}", None)) as client:
            with pytest.raises(ServiceUnreachable, match=f"http://{host}:[0-9]+ cannot be reached: Connect"):
                await lines_of(client)


async def test_a_rejection_is_in_the_services_own_words(upstream: ScriptedUpstream, client: ServiceClient) -> None:
    upstream.script_response("/v1/plan", status=422, json={"detail": "n is too large", "field": "n"})
    upstream.script_response("/v1/compare", status=500, body="<html>")
    with pytest.raises(ServiceErrorResponse, match="the service answered 422: n is too large") as caught:
        await client.call("POST", "/v1/plan", b"{}")
    assert (caught.value.status, caught.value.field) == (422, "n")
    with pytest.raises(ServiceErrorResponse, match="the service answered 500: it gives no reason"):
        await client.call("POST", "/v1/compare", b"{}")


async def test_a_rejection_that_comes_before_the_body_was_read_is_read() -> None:
    closed = asyncio.Event()

    async def rejects_the_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response_head(413, {"content-length": "2"}) + b"{}")
        writer.write_eof()
        with suppress(ConnectionError):
            while await reader.read(65_536):
                pass
        writer.close()
        closed.set()

    server = await asyncio.start_server(rejects_the_head, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, aclosing(ServiceClient(url, None)) as client:
        with pytest.raises(ServiceErrorResponse, match="413"):
            await client.call("POST", "/v1/batch", b"x" * 32 * 1024 * 1024)
        await closed.wait()


async def test_a_service_may_be_silent_longer_than_any_usual_timeout(
    upstream: ScriptedUpstream, client: ServiceClient
) -> None:
    upstream.script_response("/v1/batch", body="line\n", delay_s=5.3)  # httpx2's own timeouts are 5 s
    assert await lines_of(client) == [b"line"]


async def test_leaving_the_block_closes_the_connection(upstream: ScriptedUpstream, client: ServiceClient) -> None:
    upstream.script("/v1/batch", send_raw(response_head(200, STREAM) + chunk(b"first\n")))
    async with client.stream("POST", "/v1/batch") as response:
        assert response.status == 200
        assert upstream.open_connections == 1
    await upstream.wait_until(lambda seen: seen.open_connections == 0)


@pytest.mark.parametrize("head", [b"", response_head(200, STREAM) + chunk(b"first\n")], ids=["no head", "in the body"])
async def test_cancellation_closes_the_connection(
    upstream: ScriptedUpstream, client: ServiceClient, head: bytes
) -> None:
    upstream.script("/v1/batch", send_raw(head) if head else never_respond())
    reading = asyncio.create_task(lines_of(client))
    await upstream.wait_until(lambda seen: len(seen.requests) == 1)
    await asyncio.sleep(0.05)
    reading.cancel()
    await asyncio.wait({reading})
    assert reading.cancelled()
    await upstream.wait_until(lambda seen: seen.open_connections == 0)


async def test_every_request_has_a_connection_of_its_own(upstream: ScriptedUpstream, client: ServiceClient) -> None:
    for _ in range(3):
        await client.call("GET", "/v1/upstreams")
    assert upstream.connections == 3
    assert {request.header("connection") for request in upstream.requests} == {"close"}


async def test_a_slow_reader_slows_the_service_and_holds_no_more_than_buffers(
    upstream: ScriptedUpstream, client: ServiceClient
) -> None:
    sent_bytes = 0

    async def sends_as_it_is_read(request: ReceivedRequest, peer: Peer) -> None:
        nonlocal sent_bytes
        peer.write(response_head(200, STREAM))
        while True:
            peer.write(chunk(b"x" * 65_535 + b"\n"))
            sent_bytes += 65_536
            await peer.drain()
            await asyncio.sleep(0)

    upstream.script("/v1/batch", sends_as_it_is_read)
    async with client.stream("POST", "/v1/batch") as response, aclosing(response.iter_lines()) as lines:
        await anext(lines)
        await asyncio.sleep(0.5)
        unread_bytes = sent_bytes
        await asyncio.sleep(0.2)
        assert sent_bytes == unread_bytes < 32 * 1024 * 1024
        for _ in range(unread_bytes // 65_536 + 1):
            assert len(await anext(lines)) == 65_535


async def test_a_base_path_is_kept_and_the_key_is_sent(upstream: ScriptedUpstream) -> None:
    for base in (upstream.url + "/behind/a%20proxy", upstream.url + "/behind/a%20proxy/"):
        async with aclosing(ServiceClient(base, "a-key")) as client:
            assert client.address == upstream.url
            await client.call("PATCH", "/v1/upstreams/a%2Fb", b"{}")
    for request in upstream.requests:
        assert (request.method, request.target, request.body) == (
            "PATCH",
            "/behind/a%20proxy/v1/upstreams/a%2Fb",
            b"{}",
        )
        assert request.header("paceline-key") == "a-key"
        assert request.header("host") == upstream.url.removeprefix("http://")
        assert (request.header("user-agent") or "").startswith("paceline/")


async def test_proxies_of_the_environment_are_not_used(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with aclosing(ServiceClient(upstream.url, None)) as client:
        await client.call("GET", "/v1/upstreams")
    assert upstream.requests[0].header("paceline-key") is None


async def test_ipv6() -> None:
    async with ScriptedUpstream(host="::1") as upstream:
        async with aclosing(ServiceClient(f"http://[::1]:{upstream.port}", None)) as client:
            await client.call("GET", "/v1/upstreams")
        assert upstream.requests[0].header("host") == f"[::1]:{upstream.port}"


async def test_https_is_verified_against_the_authorities_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with ScriptedUpstream(tls=context) as upstream:
        url = f"https://localhost:{upstream.port}"
        async with aclosing(ServiceClient(url, None)) as client:
            with pytest.raises(ServiceUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
                await lines_of(client)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        async with aclosing(ServiceClient(url, None)) as client:
            await client.call("GET", "/v1/upstreams")
        assert len(upstream.requests) == 1
