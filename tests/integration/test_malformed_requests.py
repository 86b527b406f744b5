"""Requests that are not HTTP, have too large a head or end halfway: each gets an answer, and the connection closes."""

from __future__ import annotations

import asyncio

import pytest

from paceline.api.server.http_protocol import MAX_HEAD_BYTES
from support.in_process_api import one_upstream_config, start_api
from support.raw_http_client import (
    BATCH,
    GET_START,
    LONG,
    SHORT,
    RawHttpClient,
    connect,
)
from tools.scripted_upstream import ScriptedUpstream


async def test_empty_lines_are_no_request(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url), slow_client_timeouts=SHORT) as api:
        async with connect(api) as client:
            client.send(b"\r\n\r\n", GET_START, b"\r\n")
            assert (await client.read_response())[0] == 200
        async with connect(api) as client:
            client.send(b"\r\n")
            assert await client.read_until_close() == b""


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        GET_START + b"x: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n",
        GET_START + b"x: " + b"y" * (3 * MAX_HEAD_BYTES),  # and no end
        GET_START + b"y" * (3 * MAX_HEAD_BYTES),
        GET_START + b"".join(b"x-%d: y\r\n" % n for n in range(MAX_HEAD_BYTES // 8)) + b"\r\n",
        b"POST /v1/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n1;" + b"x" * (8 * MAX_HEAD_BYTES),
        b"POST /v1/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n" + b"x: y\r\n" * (MAX_HEAD_BYTES // 5),
    ],
    ids=["a path", "a value", "a value without end", "a name without end", "many", "a chunk's extension", "trailers"],
)
async def test_what_frames_a_request_is_at_most_64_kib(upstream: ScriptedUpstream, head: bytes):
    async with (
        start_api(one_upstream_config(upstream.url), slow_client_timeouts=LONG) as api,
        connect(api) as client,
    ):
        client.send(head)
        status, problem = await asyncio.wait_for(client.read_response(), 10)
        assert (status, problem["code"]) == (431, "head_too_large")
        assert await client.read_until_close() == b""


async def test_a_head_of_almost_64_kib_is_read(upstream: ScriptedUpstream):
    async with (
        start_api(one_upstream_config(upstream.url), slow_client_timeouts=LONG) as api,
        connect(api) as client,
    ):
        client.send(GET_START, b"x: ", b"y" * (MAX_HEAD_BYTES - 200), b"\r\n\r\n")
        assert (await client.read_response())[0] == 200


async def test_a_flood_of_headers_ends(upstream: ScriptedUpstream):
    async with (
        start_api(one_upstream_config(upstream.url), slow_client_timeouts=LONG) as api,
        connect(api) as client,
    ):
        client.send(GET_START)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(flood(client), 20)


async def flood(client: RawHttpClient) -> None:
    while True:
        client.send(b"x: y\r\n" * 20_000)
        await client.writer.drain()
        await asyncio.sleep(0.01)


UNREADABLE = {
    b"\x16\x03\x01 hello\r\n\r\n": "http://",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": "HTTP/2",
    GET_START.replace(b"GET", b"FETCH") + b"\r\n": "method",
    GET_START.replace(b"GET", b"get") + b"\r\n": "capitals",
    GET_START.replace(b"/healthz", b"healthz") + b"\r\n": "target",
    GET_START.replace(b"/healthz", b"/a b") + b"\r\n": "percent-encode",
    GET_START.replace(b"/healthz", b"http://[::/") + b"\r\n": "target",
    GET_START.replace(b"/healthz", b"/\xc3\xa9") + b"\r\n": "ASCII",
    GET_START.replace(b"HTTP/1.1", b"HTTP/9.9") + b"\r\n": "version",
    GET_START + b"x : y\r\n\r\n": "header",
    GET_START + b"content-length: many\r\n\r\n": "Content-Length",
    BATCH.replace(b"content-type", b"transfer-encoding: chunked\r\ncontent-type"): "Transfer-Encoding",
}


@pytest.mark.parametrize("sent", list(UNREADABLE))
async def test_what_is_not_http_is_told_so_in_words(upstream: ScriptedUpstream, sent: bytes):
    async with (
        start_api(one_upstream_config(upstream.url), slow_client_timeouts=LONG) as api,
        connect(api) as client,
    ):
        client.send(sent)
        head = await client.read_until(b"\r\n\r\n")
        assert b"content-type: application/problem+json" in head
        status, problem = await client.read_response(head)
        assert (status, problem["code"], problem["status"]) == (400, "not_http", 400)
        assert UNREADABLE[sent] in problem["detail"]
        assert await client.read_until_close() == b""


@pytest.mark.parametrize(
    "sent", [b"", b"G", GET_START, BATCH[:-1]], ids=["nothing", "a letter", "half a head", "half a body"]
)
async def test_half_a_request_and_the_end_is_the_end(upstream: ScriptedUpstream, sent: bytes):
    async with (
        start_api(one_upstream_config(upstream.url), slow_client_timeouts=LONG) as api,
        connect(api) as client,
    ):
        client.send(sent)
        client.writer.write_eof()
        assert await client.read_until_close() == b""
    assert not upstream.requests
