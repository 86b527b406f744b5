"""The streamed forms of a batch: order of completion, framing, negotiation, and a caller that does not read."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from paceline.api import answers
from support.api import Api, start_api, upstreams
from support.scripted import ScriptedUpstream

X: dict[str, Any] = {"upstream": "api", "path": "/x"}


async def test_ndjson_gives_outcomes_as_they_complete_and_the_summary_last(upstream: ScriptedUpstream):
    hold = asyncio.Event()
    upstream.answer("/held", hold=hold)
    upstream.answer("/pretty", body='{\n "a": 1\r\n}', headers={"content-type": "application/json"})
    async with (
        start_api(upstreams(upstream.url)) as api,
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
    async with start_api(upstreams(upstream.url)) as api:
        answer = await api.send("POST", "/v1/batch", {"requests": [X, X]}, accept="text/event-stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event.split("\n") for event in answer.body.rstrip("\n").split("\n\n")]
    assert [name for name, _ in events] == ["event: item", "event: item", "event: summary"]
    outcomes = [json.loads(line.removeprefix("data: ")) for _, line in events]
    assert {outcome["index"] for outcome in outcomes[:2]} == {0, 1}
    assert outcomes[2]["summary"]["succeeded"] == 2


async def test_an_event_stream_is_kept_awake_by_comments(upstream: ScriptedUpstream, monkeypatch):
    monkeypatch.setattr(answers, "COMMENT_EVERY_S", 0.05)
    upstream.answer("/slow", delay_s=0.4)
    async with start_api(upstreams(upstream.url)) as api:
        body = {"requests": [{"upstream": "api", "path": "/slow"}]}
        answer = await api.send("POST", "/v1/batch", body, accept="text/event-stream")
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
    async with start_api(upstreams(upstream.url)) as api:
        answer = await api.send("POST", "/v1/batch", {"requests": [X]}, accept=accept)
    assert answer.status == 200
    assert answer.headers["content-type"].partition(";")[0] == given


async def test_what_no_form_satisfies_is_406(upstream: ScriptedUpstream):
    async with start_api(upstreams(upstream.url)) as api:
        for accept in ("text/html", "application/json;q=0"):
            refused = await api.send("POST", "/v1/batch", {"requests": [X]}, accept=accept)
            assert (refused.status, refused.body["code"]) == (406, "not_acceptable")
    assert upstream.requests == []


async def test_a_stream_that_nobody_reads_keeps_no_more_than_the_limit(upstream: ScriptedUpstream):
    upstream.answer("/big", body="x" * 200_000, headers={"content-type": "text/plain"})
    config = upstreams(upstream.url, concurrency={"limit": 10}) | {"server": {"max_batch_response": "2MiB"}}
    async with start_api(config) as api:
        lines = await _read_late(api, upstream, count=200)
    kinds = [line["outcome"] for line in lines[:-1]]
    assert len(kinds) == 200
    assert "too_large" in kinds  # sockets hold a few MB, the limit 2; 40 MB went by
    assert {line["status"] for line in lines[:-1]} == {200}
    summary = lines[-1]["summary"]
    assert summary["succeeded"] == kinds.count("success")
    assert summary["failed"] == kinds.count("too_large")


async def _read_late(api: Api, upstream: ScriptedUpstream, *, count: int) -> list[Any]:
    """Send a batch and read nothing of its stream until every item was answered."""
    body = json.dumps({"requests": [{"upstream": "api", "path": "/big"}] * count}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port, limit=1 << 16)
    writer.write(
        b"POST /v1/batch HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"accept: application/x-ndjson\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )
    await upstream.until(lambda it: len(it.requests) == count and it.in_hand == 0, within_s=60)
    await asyncio.sleep(0.2)
    answer = await reader.read(-1)
    writer.close()
    await writer.wait_closed()
    lines = []
    for line in answer.partition(b"\r\n\r\n")[2].split(b"\n"):
        if line.startswith(b"{"):
            lines.append(json.loads(line.rstrip(b"\r")))
    return lines
