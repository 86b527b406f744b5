"""Requests that offer to upgrade their connection: the offer is ignored and the request is answered."""

from __future__ import annotations

import asyncio

import pytest

from support.in_process_api import one_upstream_config, start_api
from support.raw_http_client import (
    BATCH,
    GET_START,
    LONG,
    connect,
)
from tools.scripted_upstream import ScriptedUpstream

OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQ\r\ncontent-type"


CHUNKED = BATCH.partition(b"content-length")[0] + b"transfer-encoding: chunked\r\n\r\n"


CHUNKED += b"%x\r\n%b\r\n0\r\n\r\n" % (
    len(BATCH.partition(b"\r\n\r\n")[2]),
    BATCH.partition(b"\r\n\r\n")[2],
)


@pytest.mark.parametrize("whole", [BATCH, CHUNKED], ids=["of a length", "chunked"])
@pytest.mark.parametrize("size", [1, 100, 100_000], ids=["byte by byte", "in pieces", "in one piece"])
async def test_an_offer_to_upgrade_is_passed_over_and_its_request_answered(
    upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture, whole: bytes, size: int
):
    sent = whole.replace(b"content-type", OFFER) + GET_START + b"\r\n" + whole.replace(b"content-type", OFFER)
    async with (
        start_api(one_upstream_config(upstream.url), slow_client_timeouts=LONG) as api,
        connect(api) as client,
    ):
        for start in range(0, len(sent), size):
            client.send(sent[start : start + size])
            await asyncio.sleep(0)
        answers = [await client.read_response() for _ in range(3)]
    assert [status for status, _ in answers] == [200] * 3
    assert [body.get("summary", {}).get("succeeded") for _, body in answers] == [1, None, 1]
    assert not caplog.records


async def test_many_offers_in_one_piece_are_read_one_by_one(upstream: ScriptedUpstream):
    one = GET_START + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"
    async with (
        start_api(one_upstream_config(upstream.url), slow_client_timeouts=LONG) as api,
        connect(api) as client,
    ):
        client.send(one * 1_500)
        for _ in range(1_500):
            assert (await client.read_response())[0] == 200


@pytest.mark.parametrize(
    "asked",
    [
        GET_START + b"connection: close, upgrade\r\n",
        GET_START.replace(b"1.1", b"1.0") + b"connection: upgrade\r\n",
    ],
    ids=["to be closed", "HTTP/1.0"],
)
async def test_an_offer_on_a_connection_that_ends_is_answered_too(upstream: ScriptedUpstream, asked: bytes):
    async with (
        start_api(one_upstream_config(upstream.url), slow_client_timeouts=LONG) as api,
        connect(api) as client,
    ):
        client.send(asked + b"upgrade: websocket\r\n\r\n" + GET_START + b"\r\n")
        async with asyncio.timeout(30):
            assert (await client.read_response())[0] == 200
            assert await client.read_until_close() == b""  # what follows is not read
