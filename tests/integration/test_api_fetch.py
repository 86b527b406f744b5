"""`POST /v1/fetch`: one item, one outcome."""

from __future__ import annotations

import asyncio
from typing import Any

from support.in_process_api import one_upstream_config, start_api
from tools.scripted_upstream import ScriptedUpstream, never_respond

X: dict[str, Any] = {"upstream": "api", "path": "/x"}


async def test_a_fetch_is_one_outcome(upstream: ScriptedUpstream):
    upstream.script_response("/x", status=503, times=1)
    async with start_api(one_upstream_config(upstream.url)) as api:
        answer = await api.request("POST", "/v1/fetch", {**X, "id": "mine", "params": {"q": "1"}, "deadline": "20s"})
        rejected = await api.request("POST", "/v1/fetch", {"upstream": "nobody"})
    assert answer.status == 200
    assert (answer.body["id"], answer.body["outcome"], answer.body["attempts"]) == ("mine", "success", 2)
    assert upstream.requests[0].target == "/x?q=1"
    assert (rejected.status, rejected.body["error"]["code"]) == (200, "unknown_upstream")


async def test_a_fetch_is_interactive_unless_it_says_otherwise(upstream: ScriptedUpstream, monkeypatch):
    async with start_api(one_upstream_config(upstream.url)) as api:
        seen = []
        opened = api.service.runner.open_run
        monkeypatch.setattr(
            api.service.runner, "open_run", lambda batch, *more: seen.append(batch) or opened(batch, *more)
        )
        await api.request("POST", "/v1/fetch", X)
        await api.request("POST", "/v1/fetch", {**X, "priority": "bulk", "retry": {"attempts": 1}, "deadline": 3})
    assert [batch.priority.value for batch in seen] == ["interactive", "bulk"]
    assert [batch.deadline_s for batch in seen] == [50.0, 3.0]


async def test_a_fetch_of_the_wrong_shape_is_422(upstream: ScriptedUpstream):
    refused = [
        ({"requests": [X]}, "requests"),
        ({**X, "strategy": "adaptive"}, "strategy"),
        ({**X, "timeout": -1}, "timeout"),
        ({**X, "deadline": "1h"}, "deadline"),
        ({**X, "priority": "urgent"}, "priority"),
        ({**X, "depends_on": []}, "depends_on"),
        ({**X, "dependsOn": ["0"]}, "dependsOn"),
        ({**X, "json": 1, "body": ""}, "body"),
        ({**X, "retry": {"attempts": 0}}, "retry.attempts"),
        ({**X, "cost": {"requests": -1}}, "cost.requests"),
    ]
    async with start_api(one_upstream_config(upstream.url)) as api:
        for body, field in refused:
            answer = await api.request("POST", "/v1/fetch", body)
            assert (answer.status, answer.body["field"]) == (422, field), body


async def test_a_caller_that_hangs_up_cancels_its_fetch(upstream: ScriptedUpstream):
    upstream.script("/silent", never_respond())
    async with start_api(one_upstream_config(upstream.url)) as api:
        asking = asyncio.create_task(api.request("POST", "/v1/fetch", {"upstream": "api", "path": "/silent"}))
        await upstream.wait_until(lambda it: it.in_progress == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await upstream.wait_until(lambda it: it.open_connections == 0)
