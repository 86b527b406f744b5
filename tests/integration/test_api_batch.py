"""`POST /v1/batch` over real sockets: its answer, its limits, and what a hung-up caller leaves behind."""

from __future__ import annotations

import asyncio
import json

import pytest

from support.in_process_api import JSON, one_upstream_config, start_api
from tools.scripted_upstream import ScriptedUpstream, never_respond


async def test_an_answer_holds_every_item_in_request_order(upstream: ScriptedUpstream):
    upstream.script_response("/slow", json={"slow": True}, delay_s=0.1)
    upstream.script_response("/gone", status=404, body="no such thing", headers={"content-type": "text/plain"})
    async with start_api(one_upstream_config(upstream.url)) as api:
        answer = await api.send_batch(
            {"id": "a", "upstream": "api", "path": "/slow"},
            {"id": "b", "url": f"{upstream.url}/gone"},
            {"id": "c", "url": "http://user@example.com/"},
        )
    assert list(answer) == ["batch_id", "strategy", "elapsed_ms", "summary", "responses"]
    assert answer["summary"] == {"total": 3, "succeeded": 1, "failed": 1, "rejected": 1, "attempts": 2, "retries": 0}
    assert [(each["id"], each["index"], each["outcome"], each["status"]) for each in answer["responses"]] == [
        ("a", 0, "success", 200),
        ("b", 1, "http_error", 404),
        ("c", 2, "rejected", None),
    ]
    assert [each["body"] for each in answer["responses"]] == [{"slow": True}, "no such thing", None]
    assert answer["responses"][2]["error"]["sent"] is False


async def test_defaults_and_dependencies_reach_the_runner(upstream: ScriptedUpstream):
    upstream.script_response("/fails", status=400)
    async with start_api(one_upstream_config(upstream.url)) as api:
        answer = await api.send_batch(
            {"id": "after", "path": "/after", "depends_on": ["fails"]},
            {"id": "fails", "path": "/fails"},
            {"id": "posted", "path": "/posted", "method": "POST", "json": None},
            defaults={"upstream": "api", "headers": {"x-team": "blue"}},
        )
    assert [each["outcome"] for each in answer["responses"]] == ["dependency_failed", "http_error", "success"]
    [posted] = upstream.requests_to("/posted")
    assert (posted.body, posted.header("content-type"), posted.header("x-team")) == (
        b"null",
        "application/json",
        "blue",
    )
    assert upstream.requests_to("/after") == []


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream", "application/json"])
async def test_a_caller_that_hangs_up_cancels_its_batch(upstream: ScriptedUpstream, accept: str):
    upstream.script("/silent", never_respond())
    async with start_api(one_upstream_config(upstream.url)) as api:
        asking = asyncio.create_task(
            api.request("POST", "/v1/batch", {"requests": [{"upstream": "api", "path": "/silent"}] * 5}, accept=accept)
        )
        await upstream.wait_until(lambda it: it.in_progress == 5)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await upstream.wait_until(lambda it: it.open_connections == 0)
        assert await api.load_shedder.wait_idle(5)
        assert api.service.runner.active_batches == 0


async def test_bodies_past_the_limit_of_an_answer_are_left_out_and_said_so(upstream: ScriptedUpstream):
    upstream.script_response("/big", body="x" * 3000, headers={"content-type": "text/plain", "x-kept": "yes"})
    upstream.script_response("/error", status=404, body="x" * 3000, headers={"content-type": "text/plain"})
    config = one_upstream_config(upstream.url) | {"server": {"max_batch_response": "8KiB"}}
    async with start_api(config) as api:
        answer = await api.send_batch(
            *({"upstream": "api", "path": "/big"} for _ in range(4)),
            {"upstream": "api", "path": "/error"},
            strategy="sequential",
        )
        outcomes = [each["outcome"] for each in answer["responses"]]
        assert outcomes == ["success", "success", "too_large", "too_large", "too_large"]
        for left_out in answer["responses"][2:]:
            assert (left_out["body"], left_out["body_encoding"]) == (None, "none")
            assert left_out["error"]["code"] == "batch_response_too_large"
            assert left_out["error"]["sent"] is True
        assert answer["responses"][3]["headers"]["x-kept"] == "yes"
        assert [each["status"] for each in answer["responses"]] == [200, 200, 200, 200, 404]
        assert answer["summary"]["succeeded"] == 2
        assert answer["summary"]["failed"] == 3

        streamed = await api.request(
            "POST",
            "/v1/batch",
            {"requests": [{"upstream": "api", "path": "/big"}] * 5, "strategy": "sequential"},
            accept="application/x-ndjson",
        )
    lines = [json.loads(line) for line in streamed.body.splitlines()]
    assert [line["outcome"] for line in lines[:-1]] == ["success"] * 5
    assert lines[-1]["summary"]["succeeded"] == 5


async def test_a_body_above_the_limit_is_refused_by_its_length_before_it_is_read(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url) | {"server": {"max_body": "1KiB"}}) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(
            b"POST /v1/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 5000000\r\nexpect: 100-continue\r\n\r\n"
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 413 ")
        assert "connection: close" in head
        writer.close()
        await writer.wait_closed()


async def test_a_chunked_body_is_refused_once_it_passes_the_limit(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url) | {"server": {"max_body": "1KiB"}}) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(
            b"POST /v1/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for _ in range(3):
            writer.write(b"200\r\n" + b" " * 512 + b"\r\n")
            await writer.drain()
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()
        await writer.wait_closed()


async def test_a_body_as_large_as_the_limit_is_read(upstream: ScriptedUpstream):
    body = b'{"requests": [{"upstream": "api", "path": "/x"}]}'
    async with start_api(one_upstream_config(upstream.url) | {"server": {"max_body": len(body)}}) as api:
        assert (await api.request("POST", "/v1/batch", body)).status == 200
        refused = await api.request("POST", "/v1/batch", body + b" ")
    assert (refused.status, refused.body["code"]) == (413, "too_large")


async def test_more_items_than_a_batch_may_have_are_413(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url) | {"server": {"max_items": 2}}) as api:
        refused = await api.request("POST", "/v1/batch", {"requests": [{"upstream": "api"}] * 3})
    assert (refused.status, refused.body["field"]) == (413, "requests")


async def test_more_items_than_the_service_holds_are_413_or_wait_for_room(upstream: ScriptedUpstream):
    hold = asyncio.Event()
    upstream.script_response("/held", hold=hold)
    async with start_api(one_upstream_config(upstream.url) | {"server": {"max_in_flight_items": 3}}) as api:
        refused = await api.request("POST", "/v1/batch", {"requests": [{"upstream": "api"}] * 4})
        assert refused.status == 413
        first = asyncio.create_task(api.send_batch(*[{"upstream": "api", "path": "/held"}] * 2))
        await upstream.wait_until(lambda it: it.in_progress == 2)
        full = await api.request("POST", "/v1/batch", {"requests": [{"upstream": "api"}] * 2})
        assert (full.status, full.body["code"], full.headers["retry-after"]) == (503, "overloaded", "1")
        assert (await api.send_batch({"upstream": "api"}))["summary"]["succeeded"] == 1
        hold.set()
        await first
        assert (await api.send_batch(*[{"upstream": "api"}] * 3))["summary"]["succeeded"] == 3


async def test_prefer_respond_async_changes_nothing(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url)) as api:
        answer = await api.request("POST", "/v1/batch", {"requests": [{"upstream": "api"}]}, prefer="respond-async")
    assert (answer.status, answer.body["summary"]["succeeded"]) == (200, 1)


async def test_the_service_does_not_fetch_itself(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url)) as api:
        api.service.apply(
            api.service.config.model_copy(
                update={
                    "upstreams": {
                        "self": api.service.config.upstreams["api"].model_copy(
                            update={"base_url": f"http://127.0.0.1:{api.port}"}
                        )
                    }
                }
            )
        )
        answer = await api.send_batch({"upstream": "self", "path": "/healthz"})
    assert answer["responses"][0]["error"]["code"] == "egress_denied"


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/vnd.batch+json", 200),
        ("text/plain", 415),
        ("application/x-ndjson", 415),
        ("application/jsonp", 415),
        ("", 415),
    ],
)
async def test_the_content_type_must_be_json(upstream: ScriptedUpstream, content_type: str, status: int):
    async with (
        start_api(one_upstream_config(upstream.url)) as api,
        api.http.post(
            "/v1/batch", data=b'{"requests": [{"upstream": "api"}]}', headers={"content-type": content_type}
        ) as answer,
    ):
        assert answer.status == status
        if status == 415:
            assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"requests": [{"timeout": NaN}]}',
        b'{"requests": [{"id": "\xff"}]}',
        b'{"requests": [{"json": "\xff"}]}',
        b'{"requests": [{"id": "\\ud800"}]}',
        b'{"requests": [{"json": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
        b'{"requests": []} {}',
        b"\xef\xbb\xbf{}",
    ],
    ids=["empty", "torn", "NaN", "not UTF-8", "not UTF-8 inside json", "half a pair", "deep", "two", "mark"],
)
async def test_what_is_not_json_is_400(body: bytes):
    async with start_api({}) as api:
        refused = await api.request("POST", "/v1/batch", body)
    assert (refused.status, refused.body["code"]) == (400, "not_json")
    assert refused.headers["content-type"] == "application/problem+json"


async def test_a_caller_that_hangs_up_while_sending_leaves_nothing():
    async with start_api({}) as api:
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        head = b"POST /v1/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        writer.write(head + b'content-length: 500\r\n\r\n{"reque')
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with api.http.get("/metrics", headers=JSON) as answer:
            assert answer.status == 200
