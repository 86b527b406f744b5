"""The streamed forms of a batch: order of completion, framing, negotiation, and a caller that does not read."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from paceline.api import batch_responses
from paceline.api.load_shedding import Usage
from support.in_process_api import InProcessApi, one_upstream_config, start_api
from tools.scripted_upstream import ScriptedUpstream

X: dict[str, Any] = {"upstream": "api", "path": "/x"}


async def test_ndjson_gives_outcomes_as_they_complete_and_the_summary_last(upstream: ScriptedUpstream):
    hold = asyncio.Event()
    upstream.script_response("/held", hold=hold)
    upstream.script_response("/pretty", body='{\n "a": 1\r\n}', headers={"content-type": "application/json"})
    async with (
        start_api(one_upstream_config(upstream.url)) as api,
        api.http.post(
            "/v1/batch",
            json={"requests": [{"upstream": "api", "path": "/held"}, {"upstream": "api", "path": "/pretty"}]},
            headers={"accept": "application/x-ndjson"},
        ) as answer,
    ):
        assert answer.status == 200
        assert answer.content_type == "application/x-ndjson"
        first = json.loads(await answer.content.readline())
        assert (first["index"], first["body"]) == (1, {"a": 1})  # while the other is still out
        hold.set()
        second = json.loads(await answer.content.readline())
        last = json.loads(await answer.content.readline())
        assert second["index"] == 0
        assert last == {
            "summary": {"total": 2, "succeeded": 2, "failed": 0, "rejected": 0, "attempts": 2, "retries": 0}
        }
        assert await answer.content.read() == b""


async def test_server_sent_events_are_items_then_a_summary(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url)) as api:
        answer = await api.request("POST", "/v1/batch", {"requests": [X, X]}, accept="text/event-stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event.split("\n") for event in answer.body.rstrip("\n").split("\n\n")]
    assert [name for name, _ in events] == ["event: item", "event: item", "event: summary"]
    outcomes = [json.loads(line.removeprefix("data: ")) for _, line in events]
    assert {outcome["index"] for outcome in outcomes[:2]} == {0, 1}
    assert outcomes[2]["summary"]["succeeded"] == 2


async def test_an_event_stream_is_kept_awake_by_comments(upstream: ScriptedUpstream, monkeypatch):
    monkeypatch.setattr(batch_responses, "SSE_COMMENT_INTERVAL_S", 0.05)
    upstream.script_response("/slow", delay_s=0.4)
    async with start_api(one_upstream_config(upstream.url)) as api:
        body = {"requests": [{"upstream": "api", "path": "/slow"}]}
        answer = await api.request("POST", "/v1/batch", body, accept="text/event-stream")
    comments = [part for part in answer.body.split("\n\n") if part.startswith(":")]
    assert len(comments) >= 3


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/x-ndjson, */*;q=0.1", "application/x-ndjson"),
        ("application/json;q=0.5, text/event-stream", "text/event-stream"),
        ("application/json;q=0.5, application/x-ndjson;q=0.4", "application/json"),
        ("application/json;q=0, */*", "application/x-ndjson"),
        ("text/html, application/json", "application/json"),
        ("APPLICATION/X-NDJSON", "application/x-ndjson"),
    ],
)
async def test_the_form_is_what_accept_weighs_most(upstream: ScriptedUpstream, accept: str, given: str):
    async with start_api(one_upstream_config(upstream.url)) as api:
        answer = await api.request("POST", "/v1/batch", {"requests": [X]}, accept=accept)
    assert answer.status == 200
    assert answer.headers["content-type"].partition(";")[0] == given


async def test_what_no_form_satisfies_is_406(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url)) as api:
        for accept in ("text/html", "application/json;q=0"):
            refused = await api.request("POST", "/v1/batch", {"requests": [X]}, accept=accept)
            assert (refused.status, refused.body["code"]) == (406, "not_acceptable")
    assert upstream.requests == []


SMALL_ROOM = {"server": {"max_batch_response": "2MiB"}}
BIG: dict[str, Any] = {"upstream": "api", "path": "/big"}


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
async def test_a_stream_that_nobody_reads_holds_its_batch_and_read_at_last_it_is_whole(
    upstream: ScriptedUpstream, accept: str
):
    upstream.script_response("/big", body="x" * 200_000, headers={"content-type": "text/plain"})
    config = one_upstream_config(upstream.url, concurrency={"limit": 5}) | SMALL_ROOM
    async with start_api(config) as api, unread(api, [BIG] * 100, accept) as reader:
        held = api.load_shedder.usage
        await at_rest(upstream, held, 2 << 20)
        sent = len(upstream.requests)
        assert sent < 100  # sockets hold a few MB, the room 2, the batch 20
        assert held.response_bytes <= (2 << 20) + 11 * 201_000  # five in flight, and as many being looked through
        _, state = await others(api)
        assert (state["in_flight"], state["queued"]) == (0, 100 - sent)
        assert len(upstream.requests) == sent + 1  # the other caller's
        lines = await outcomes(reader)
    assert sorted(line["index"] for line in lines[:-1]) == list(range(100))
    assert {(line["outcome"], len(line["body"])) for line in lines[:-1]} == {("success", 200_000)}
    assert lines[-1]["summary"]["succeeded"] == 100
    waited = [line["timing"] for line in lines[:-1] if line["timing"]["queue_ms"] > 50]
    assert waited  # for the caller: that is on the receipt
    assert sum(timing["queue_ms"] for timing in waited) > 0.5 * sum(timing["total_ms"] for timing in waited)


async def test_a_batch_that_is_held_ends_at_its_deadline(upstream: ScriptedUpstream):
    upstream.script_response("/big", body="x" * 200_000, headers={"content-type": "text/plain"})
    config = one_upstream_config(upstream.url, concurrency={"limit": 5}) | SMALL_ROOM
    async with start_api(config) as api, unread(api, [BIG] * 100, deadline="1s") as reader:
        await upstream.wait_until(lambda it: api.service.runner.active_batches == 1)
        await upstream.wait_until(lambda it: api.service.runner.active_batches == 0)  # although nobody has read it
        lines = await outcomes(reader)
    kinds = Counter(line["outcome"] for line in lines[:-1])
    assert set(kinds) == {"success", "deadline_exceeded"}
    assert kinds["success"] == len(upstream.requests)
    assert {line["error"]["sent"] for line in lines[:-1] if line["error"]} == {False}


async def test_while_all_answers_fill_the_service_streams_wait_and_lose_nothing(upstream: ScriptedUpstream):
    """Each has room of its own left, and all of them together have none."""
    upstream.script_response("/big", body="x" * 200_000, headers={"content-type": "text/plain"})
    server = {"max_items": 100, "max_in_flight_items": 200, "max_batch_response": "4MiB"}
    config = one_upstream_config(upstream.url, concurrency={"limit": 5}) | {"server": server}
    async with start_api(config) as api, AsyncExitStack() as callers:
        readers = [await callers.enter_async_context(unread(api, [BIG] * 50)) for _ in range(4)]
        held, bound = api.load_shedder.usage, 2 * 4 << 20
        await at_rest(upstream, held, bound)
        assert held.response_bytes <= bound + 11 * 201_000
        assert (await api.request("POST", "/v1/batch", {"requests": [X]})).status == 503
        answers = await asyncio.gather(*(outcomes(reader) for reader in readers))
    for lines in answers:
        assert [line["outcome"] for line in lines[:-1]] == ["success"] * 50
        assert lines[-1]["summary"]["succeeded"] == 50


@asynccontextmanager
async def unread(
    api: InProcessApi, items: list[dict[str, Any]], accept: str = "application/x-ndjson", **fields: Any
) -> AsyncIterator[asyncio.StreamReader]:
    """Send a batch over a socket of its own, and read nothing yet of its stream."""
    body = json.dumps({"requests": items, **fields}).encode()
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", api.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 16)
    try:
        writer.write(
            b"POST /v1/batch HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"accept: %b\r\ncontent-length: %d\r\n\r\n%b" % (accept.encode(), len(body), body)
        )
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()


async def at_rest(upstream: ScriptedUpstream, held: Usage, room: int) -> None:
    """Wait until the answers fill the room, none is on its way, and sockets take no more of them."""
    before, same = (0, 0), 0
    while same < 5:
        await upstream.wait_until(lambda it: held.response_bytes >= room and it.in_progress == 0)
        await asyncio.sleep(0.04)
        now = (held.response_bytes, len(upstream.requests))
        before, same = now, same + 1 if now == before else 0


async def others(api: InProcessApi) -> tuple[Any, Any]:
    """What another caller gets meanwhile, and how the upstream stands."""
    return await api.send_batch(X), (await api.request("GET", "/v1/upstreams/api")).body


async def outcomes(reader: asyncio.StreamReader) -> list[Any]:
    """What there is to read, in either form, to the end of the connection."""
    answer = (await reader.read(-1)).partition(b"\r\n\r\n")[2]
    lines = (line.removeprefix(b"data: ").rstrip(b"\r") for line in answer.split(b"\n"))
    return [json.loads(line) for line in lines if line.startswith(b"{")]
