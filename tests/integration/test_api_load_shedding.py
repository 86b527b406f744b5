"""More than the service may hold: refused with a time to come back, before it is read where that can be known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from support.in_process_api import InProcessApi, one_upstream_config, start_api
from tools.scripted_upstream import ScriptedUpstream
from tools.waiting import wait_until

KEYS = {"server": {"max_items": 4, "max_in_flight_items": 8}}
HELD: dict[str, Any] = {"upstream": "api", "path": "/held"}


def keyed(url: str) -> dict[str, Any]:
    keys = [{"name": name, "key": name * 16} for name in ("a", "b")]
    return one_upstream_config(url) | {"server": {**KEYS["server"], "api_keys": keys}}


async def test_a_caller_over_its_share_is_429_while_others_get_in(upstream: ScriptedUpstream):
    hold = asyncio.Event()
    upstream.script_response("/held", hold=hold)
    async with start_api(keyed(upstream.url)) as api:
        body = {"requests": [HELD] * 4}
        first = asyncio.create_task(api.request("POST", "/v1/batch", body, paceline_key="a" * 16))
        await upstream.wait_until(lambda it: it.in_progress == 4)
        for path, more in (
            ("/v1/batch", {"requests": [HELD]}),
            ("/v1/plan", {"requests": [HELD]}),
            ("/v1/fetch", HELD),
        ):
            over = await api.request("POST", path, more, paceline_key="a" * 16)
            assert (over.status, over.body["code"], over.headers["retry-after"]) == (429, "over_share", "1")
        other = asyncio.create_task(api.request("POST", "/v1/batch", body, paceline_key="b" * 16))
        await upstream.wait_until(lambda it: it.in_progress == 8)
        hold.set()
        assert [(await each).status for each in (first, other)] == [200, 200]


async def test_bodies_on_their_way_in_are_counted_and_given_back(upstream: ScriptedUpstream):
    config = one_upstream_config(upstream.url) | {
        "server": {"max_items": 1, "max_in_flight_items": 4, "max_body": "64KiB"}
    }
    async with start_api(config) as api:
        async with AsyncExitStack() as senders:
            for _ in range(4):
                await senders.enter_async_context(sending(api, "/v1/fetch", b"{", length=65_536))
            await wait_until(lambda: api.load_shedder.usage.body_bytes == 4 * 65_536)
            full = await api.request("POST", "/v1/fetch", HELD)
            assert (full.status, full.body["code"], full.headers["retry-after"]) == (503, "overloaded", "1")
            assert (await api.request("GET", "/healthz")).status == 200
            assert (await api.request("PATCH", "/v1/upstreams/api", {"paused": False})).status == 200
        await wait_until(lambda: api.load_shedder.usage.body_bytes == 0)
        assert (await api.request("POST", "/v1/fetch", {"upstream": "api"})).status == 200


async def test_answers_that_nobody_reads_fill_the_service_and_not_its_memory(upstream: ScriptedUpstream):
    big = 7_000_000  # more than the buffers of two sockets hold
    upstream.script_response("/big", body="x" * big, headers={"content-type": "text/plain"})
    body = b'{"requests":[%b]}' % b",".join([b'{"upstream":"api","path":"/big"}'] * 4)
    server = {"max_items": 4, "max_in_flight_items": 8, "max_batch_response": "28MiB"}
    async with start_api(one_upstream_config(upstream.url) | {"server": server}) as api:
        async with AsyncExitStack() as callers:
            for asked in (4, 8):
                await callers.enter_async_context(sending(api, "/v1/batch", body))
                await upstream.wait_until(lambda it, asked=asked: len(it.requests) == asked and it.in_progress == 0)
            await wait_until(lambda: api.load_shedder.usage.response_bytes >= 4 * big)
            assert api.load_shedder.usage.response_bytes <= 2 * 28 << 20
            assert (await api.request("POST", "/v1/fetch", {"upstream": "api"})).status == 503  # no item fits
        await wait_until(lambda: api.load_shedder.usage.response_bytes == 0 and api.load_shedder.items == 0)
        assert (await api.request("POST", "/v1/fetch", {"upstream": "api"})).status == 200


async def test_an_answer_of_any_size_arrives_whole(upstream: ScriptedUpstream):
    upstream.script_response("/big", json={"x": ["é\n"] * 100_000})
    upstream.script_response("/small", json=[1])
    async with start_api(one_upstream_config(upstream.url)) as api:
        answer = await api.send_batch(*({"upstream": "api", "path": path} for path in ["/small", "/big"] * 3))
    assert [len(str(each["body"])) > 1000 for each in answer["responses"]] == [False, True] * 3
    assert answer["responses"][5]["body"] == {"x": ["é\n"] * 100_000}
    assert answer["summary"]["succeeded"] == 6


@asynccontextmanager
async def sending(api: InProcessApi, path: str, body: bytes, *, length: int | None = None) -> AsyncIterator[None]:
    """Send a request, or the beginning of one that is told to be longer; read nothing, and hang up at the end."""
    _, writer = await asyncio.open_connection("127.0.0.1", api.port, limit=1 << 16)
    try:
        writer.write(
            b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (path.encode(), length or len(body), body)
        )
        await writer.drain()
        yield
    finally:
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
