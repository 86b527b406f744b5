"""Callers that leave, dawdle or send half of something, in each form of an answer and on both engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from support.shared_service import ENGINES, SharedService, send_batch, shared_service
from tools.scripted_upstream import never_respond

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORMS = ["application/json", "application/x-ndjson", "text/event-stream"]
POLICIES: dict[str, dict[str, Any]] = {
    **{f"left-{n}": {"concurrency": {"limit": 5}} for n in range(len(FORMS))},
    "half": {},
    "slow": {},
    "fetched": {},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SharedService]:
    async with shared_service(request.param, POLICIES, tmp_path_factory.mktemp(f"streams-{request.param}")) as service:
        yield service


@pytest.mark.parametrize("form", FORMS)
async def test_a_caller_that_hangs_up_takes_its_calls_along(shared: SharedService, form: str) -> None:
    api = shared.upstream_named(f"left-{FORMS.index(form)}")
    api.script("/silent", never_respond())
    asked = [api.item("/quick"), *(api.item("/silent") for _ in range(20))]
    reader, writer = await post(shared, "/v1/batch", {"requests": asked}, accept=form)
    await shared.upstream.wait_until(lambda it: it.in_progress == 5)
    if form != FORMS[0]:
        await reader.readuntil(b'"id":"0"')  # the first outcome is out, and the caller leaves in the middle of the rest
    writer.close()
    await shared.upstream.wait_until(lambda it: it.in_progress == 0)  # each call's socket was closed
    _, state = await shared.server.get(f"/v1/upstreams/{api.name}")
    assert (state["in_flight"], state["queued"]) == (0, 0)
    assert len(api.requests) == 6  # and nothing went out afterwards
    (served,) = await send_batch(shared.server, [api.item("/quick")])
    assert served["outcome"] == "success"


async def test_a_fetch_whose_caller_hangs_up_is_ended(shared: SharedService) -> None:
    api = shared.upstream_named("fetched")
    api.script("/silent", never_respond())
    _, writer = await post(shared, "/v1/fetch", api.item("/silent"))
    await shared.upstream.wait_until(lambda it: it.in_progress == 1)
    writer.transport.abort()  # a reset, not a polite end
    await shared.upstream.wait_until(lambda it: it.in_progress == 0)


async def test_a_body_that_never_comes_whole_sends_nothing(shared: SharedService) -> None:
    api = shared.upstream_named("half")
    whole = json.dumps({"requests": [api.item("/half")]}).encode()
    for sent in (b"", whole[:20], whole[:-1]):
        _, writer = await post(shared, "/v1/batch", sent, length=len(whole))
        writer.close()
        await writer.wait_closed()
    reader, writer = await post(shared, "/v1/batch", whole[:-1], length=len(whole))
    await asyncio.sleep(0.1)
    assert not api.requests
    writer.write(whole[-1:])  # a slow caller is still a caller
    assert (await reader.readline()).split()[1] == b"200"
    writer.close()


async def test_two_requests_in_one_packet_are_answered_in_order(shared: SharedService) -> None:
    api = shared.upstream_named("slow")
    api.script_response("/a", delay_s=0.2, body="first")
    one = message(shared, "/v1/fetch", api.item("/a", id="a"))
    two = message(shared, "/v1/fetch", api.item("/b", id="b"), close=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", port(shared))
    writer.write(one + two)
    text = (await reader.read()).decode()
    writer.close()
    assert text.index('"id":"a"') < text.index('"id":"b"')
    assert text.count("HTTP/1.1 200 OK") == 2


async def test_a_caller_of_old_gets_its_stream_to_the_end_of_the_connection(shared: SharedService) -> None:
    api = shared.upstream_named("slow")
    body = json.dumps({"requests": [api.item("/old") for _ in range(3)]}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port(shared))
    writer.write(
        b"POST /v1/batch HTTP/1.0\r\ncontent-type: application/json\r\naccept: application/x-ndjson\r\n"
        b"host: localhost\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )
    answer = (await reader.read()).decode()
    writer.close()
    lines = [line.strip() for line in answer.partition("\r\n\r\n")[2].splitlines() if line.startswith("{")]
    assert json.loads(lines[-1])["summary"]["succeeded"] == 3


def port(shared: SharedService) -> int:
    return int(shared.server.base_url.rpartition(":")[2])


def message(
    shared: SharedService,
    path: str,
    body: Any,
    *,
    accept: str = "application/json",
    length: int | None = None,
    close: bool = False,
) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", f"accept: {accept}"]
    fields += [
        f"content-length: {len(content) if length is None else length}",
        *(["connection: close"] if close else []),
    ]
    return "\r\n".join([*fields, "", ""]).encode() + content


async def post(
    shared: SharedService, path: str, body: Any, **options: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request over a socket of its own, and wait for nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port(shared))
    writer.write(message(shared, path, body, **options))
    return reader, writer
