"""Several requests on one connection, sent before the first is answered; and a client that ends its direction."""

from __future__ import annotations

import asyncio

import pytest

from paceline.api.server.http_protocol import MAX_READ_AHEAD_BYTES
from support.in_process_api import one_upstream_config, start_api
from support.raw_http_client import (
    BATCH,
    ITEM,
    LONG,
    SHORT,
    connect,
    post_bytes,
)
from tools.scripted_upstream import ScriptedUpstream, never_respond


async def test_a_request_that_waits_for_an_earlier_one_is_not_late(upstream: ScriptedUpstream):
    upstream.script_response("/slow", delay_s=1.2)
    async with (
        start_api(one_upstream_config(upstream.url), slow_client_timeouts=SHORT) as api,
        connect(api) as client,
    ):
        client.send(post_bytes({"upstream": "api", "path": "/slow"}), BATCH[:-1])
        assert (await client.read_response())[1]["summary"]["succeeded"] == 1
        client.send(BATCH[-1:])
        assert (await client.read_response())[1]["summary"]["succeeded"] == 1


@pytest.mark.parametrize("together", [True, False], ids=["in one piece", "one after the other"])
async def test_a_caller_with_requests_in_a_row_that_hangs_up_takes_them_all_along(
    upstream: ScriptedUpstream, together: bool
):
    upstream.script("/silent", never_respond())
    one = post_bytes({"upstream": "api", "path": "/silent"})
    async with (
        start_api(one_upstream_config(upstream.url), slow_client_timeouts=LONG) as api,
        connect(api) as client,
    ):
        client.send(one, one if together else b"")
        await upstream.wait_until(lambda it: it.in_progress == 1)
        if not together:
            client.send(one)
            await asyncio.sleep(0.1)
            client.send(one)
            await asyncio.sleep(0.1)
        client.writer.transport.abort()
        await upstream.wait_until(lambda it: it.in_progress == 0)
        assert await api.load_shedder.wait_idle(10)
    assert len(upstream.requests) == 1


async def test_requests_in_a_row_are_answered_in_order_however_many(upstream: ScriptedUpstream):
    async with (
        start_api(one_upstream_config(upstream.url), slow_client_timeouts=LONG) as api,
        connect(api) as client,
    ):
        client.send(*[post_bytes({**ITEM, "id": str(n)}) for n in range(50)])
        for n in range(50):
            _, answer = await client.read_response()
            assert answer["responses"][0]["id"] == str(n)


async def test_more_requests_in_a_row_than_are_read_ahead_are_all_answered(upstream: ScriptedUpstream):
    count = 3 * MAX_READ_AHEAD_BYTES // len(BATCH)
    upstream.script_response("/x", delay_s=0.3, times=1)
    async with (
        start_api(one_upstream_config(upstream.url), slow_client_timeouts=LONG) as api,
        connect(api) as client,
    ):
        client.send(BATCH * count)
        for _ in range(count):
            assert (await client.read_response())[0] == 200


async def test_a_caller_that_closes_its_own_direction_counts_as_gone(upstream: ScriptedUpstream):
    upstream.script("/silent", never_respond())
    async with (
        start_api(one_upstream_config(upstream.url), slow_client_timeouts=LONG) as api,
        connect(api) as client,
    ):
        client.send(post_bytes({"upstream": "api", "path": "/silent"}))
        await upstream.wait_until(lambda it: it.in_progress == 1)
        client.writer.write_eof()
        assert await client.read_until_close() == b""
        await upstream.wait_until(lambda it: it.in_progress == 0)
