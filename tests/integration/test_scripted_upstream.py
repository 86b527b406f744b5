from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
import trustme

from tools import scripted_upstream
from tools.scripted_upstream import Handler, ScriptedUpstream


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def status(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as answer:
        await answer.read()
        return answer.status


async def test_a_script_is_played_in_order_and_then_every_path_answers_200(
    upstream: ScriptedUpstream, session: aiohttp.ClientSession
) -> None:
    upstream.script_response("/x", status=503, times=2)
    upstream.script_response("/x", status=404, times=1)
    statuses = [await status(session, f"{upstream.url}/x?n={n}") for n in range(5)]
    assert statuses == [503, 503, 404, 200, 200]
    assert await status(session, upstream.url + "/other") == 200


async def test_the_script_of_a_path_comes_before_that_of_every_path(
    upstream: ScriptedUpstream, session: aiohttp.ClientSession
) -> None:
    upstream.script_response(status=500)
    upstream.script_response("/x", json={"n": 1}, headers={"x-kind": "json"}, times=1)
    async with session.get(upstream.url + "/x") as answer:
        assert await answer.json() == {"n": 1}
        assert answer.headers["x-kind"] == "json"
    assert await status(session, upstream.url + "/x") == 500


async def test_it_records_what_was_sent(upstream: ScriptedUpstream, session: aiohttp.ClientSession) -> None:
    began = time.perf_counter()
    async with session.post(upstream.url + "/a?b=c", json={"k": 1}, headers={"X-Token": "t"}):
        pass
    (request,) = upstream.requests_to("/a")
    assert (request.method, request.target, request.json) == ("POST", "/a?b=c", {"k": 1})
    assert request.header("x-token") == "t"
    assert began <= request.at <= time.perf_counter()
    assert request.connection == 1


async def test_held_requests_show_in_the_high_water_mark(
    upstream: ScriptedUpstream, session: aiohttp.ClientSession
) -> None:
    opened = asyncio.Event()
    upstream.script_response(hold=opened)
    flying = [asyncio.create_task(status(session, f"{upstream.url}/{n}")) for n in range(5)]
    await upstream.wait_until(lambda it: it.in_progress == 5)
    opened.set()
    assert await asyncio.gather(*flying) == [200] * 5
    assert (upstream.in_progress, upstream.in_progress_max, upstream.connections) == (0, 5, 5)


@pytest.mark.parametrize(
    "act", [scripted_upstream.never_respond(), scripted_upstream.respond_with(delay_s=600)], ids=["silent", "slow"]
)
async def test_a_caller_that_leaves_is_no_longer_in_hand(
    upstream: ScriptedUpstream, session: aiohttp.ClientSession, act: Handler
) -> None:
    upstream.script("/x", act)
    flying = asyncio.create_task(status(session, upstream.url + "/x"))
    await upstream.wait_until(lambda it: it.in_progress == 1)
    flying.cancel()
    await upstream.wait_until(lambda it: it.in_progress == 0 and it.open_connections == 0)


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (scripted_upstream.reset_connection(), aiohttp.ClientOSError),
        (
            scripted_upstream.reset_connection(after=scripted_upstream.response_head(200, {"content-length": "9"})),
            aiohttp.ClientPayloadError,
        ),
        (scripted_upstream.disconnect(), aiohttp.ServerDisconnectedError),
        (scripted_upstream.truncate_body(), aiohttp.ClientPayloadError),
        (scripted_upstream.send_garbage(), aiohttp.ClientResponseError),
        (scripted_upstream.never_respond(), TimeoutError),
        (scripted_upstream.drip_body(), TimeoutError),
        (scripted_upstream.send_early_hints(every_s=0.01), TimeoutError),
        (scripted_upstream.stream_forever(), TimeoutError),
    ],
    ids=[
        "reset",
        "reset-in-body",
        "hangs-up",
        "truncated",
        "garbage",
        "silent",
        "dripping",
        "103s",
        "endless",
    ],
)
async def test_a_broken_upstream_breaks_as_it_says(
    upstream: ScriptedUpstream, session: aiohttp.ClientSession, act: Handler, error: type[Exception]
) -> None:
    upstream.script("/x", act)

    async def read() -> None:
        async with asyncio.timeout(0.5), session.get(upstream.url + "/x") as answer:
            async for _ in answer.content.iter_chunked(65_536):
                pass

    with pytest.raises(error):
        await read()


async def test_a_delayed_answer_is_delayed(upstream: ScriptedUpstream, session: aiohttp.ClientSession) -> None:
    upstream.script_response("/x", delay_s=0.1)
    began = time.perf_counter()
    assert await status(session, upstream.url + "/x") == 200
    assert time.perf_counter() - began >= 0.099


async def test_the_busiest_stretch_is_found(upstream: ScriptedUpstream) -> None:
    for moment in (0.0, 0.9, 1.0, 1.5, 1.8, 2.5):
        upstream.requests.append(scripted_upstream.ReceivedRequest("GET", "/", (), b"", moment, 1))
    assert upstream.max_requests_within(1.0) == 4
    assert upstream.max_requests_within(0.05) == 1
    assert upstream.max_requests_within(0.5) == 2


async def test_a_stretch_does_not_count_its_own_end(upstream: ScriptedUpstream) -> None:
    for moment in (0.0, 1.0, 2.0):
        upstream.requests.append(scripted_upstream.ReceivedRequest("GET", "/", (), b"", moment, 1))
    assert upstream.max_requests_within(1.0) == 1


async def test_a_fault_in_a_test_s_own_act_fails_the_test() -> None:
    async def act(request: scripted_upstream.ReceivedRequest, peer: scripted_upstream.Peer) -> None:
        raise ZeroDivisionError

    upstream = await ScriptedUpstream().__aenter__()
    upstream.script("/x", act)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await status(session, upstream.url + "/x")
    with pytest.raises(ZeroDivisionError):
        await upstream.__aexit__()


async def test_it_speaks_tls_where_asked() -> None:
    authority = trustme.CA()
    serving, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    authority.configure_trust(trusting)
    async with ScriptedUpstream(tls=serving) as upstream, aiohttp.ClientSession() as session:
        upstream.script_response("/x", status=204)
        async with session.get(upstream.url + "/x", ssl=trusting) as answer:
            assert answer.status == 204
        upstream.script("/y", scripted_upstream.reset_connection())
        with pytest.raises(aiohttp.ClientOSError):
            await session.get(upstream.url + "/y", ssl=trusting)
    assert upstream.open_connections == 0
