"""`POST /v1/plan` over real sockets: the batch's own checks, what is under way counts, and nothing is sent."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from support.in_process_api import one_upstream_config, start_api
from tools.scripted_upstream import ScriptedUpstream
from tools.waiting import wait_until

RATE = [{"limit": 20, "per": "1s", "burst": 1}]


def batch(count: int, **fields: Any) -> dict[str, Any]:
    return {"requests": [{"upstream": "api", "path": f"/{index}"} for index in range(count)], **fields}


async def test_what_is_planned_is_what_happens_and_planning_sends_nothing(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url, rate=RATE)) as api:
        await api.request("POST", "/v1/batch", batch(5))
        sent = len(upstream.requests)
        told = await api.request("POST", "/v1/plan", batch(41))
        assert (told.status, len(upstream.requests)) == (200, sent)
        plan = told.body
        done = await api.request("POST", "/v1/batch", batch(41))
    assert plan["finish_in_ms"] == pytest.approx(done.body["elapsed_ms"], rel=0.1)
    assert plan["binding"] == {"upstream": "api", "window": "20/1s"}
    [row] = plan["per_upstream"]
    assert row.items() >= {"upstream": "api", "items": 41, "window": "20/1s", "misses_deadline": 0}.items()
    assert plan["misses_deadline"] == plan["rejected"] == 0


async def test_the_deadline_and_who_is_ahead_count(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url, rate=RATE)) as api:
        alone = (await api.request("POST", "/v1/plan", batch(40, deadline="1s"))).body
        ahead = asyncio.create_task(api.request("POST", "/v1/batch", batch(40)))
        await wait_until(lambda: bool(upstream.requests))
        beside = (await api.request("POST", "/v1/plan", batch(40))).body
        await ahead
    assert alone["misses_deadline"] == pytest.approx(20, abs=3)
    assert beside["finish_in_ms"] > alone["finish_in_ms"] + 1000


async def test_an_operator_s_pause_has_no_end(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url)) as api:
        await api.request("PATCH", "/v1/upstreams/api", {"paused": True})
        plan = (await api.request("POST", "/v1/plan", batch(2))).body
    assert plan["finish_in_ms"] is None
    assert plan["binding"] == {"upstream": "api", "window": "pause"}


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"requests": []}, 422, "requests"),
        (batch(2, rate={"limit": 0, "per": "1s"}), 422, "rate.limit"),
        (batch(2, strategy="sequential", max_concurrency=2), 422, "max_concurrency"),
        (batch(1001), 413, "requests"),
        ({"requests": [{"upstream": "api", "depends_on": ["x"]}]}, 422, "requests[0].depends_on"),
    ],
)
async def test_it_refuses_what_a_batch_refuses(upstream: ScriptedUpstream, body: Any, status: int, field: str):
    async with start_api(one_upstream_config(upstream.url)) as api:
        answers = [await api.request("POST", path, body) for path in ("/v1/plan", "/v1/batch")]
    assert [answer.status for answer in answers] == [status, status]
    assert answers[0].body == answers[1].body
    assert answers[0].body["field"] == field


async def test_a_large_plan_leaves_others_their_turns(upstream: ScriptedUpstream):
    config = one_upstream_config(upstream.url, rate=[{"limit": 5000, "per": "1s"}]) | {"server": {"max_items": 10_000}}
    async with start_api(config) as api:
        planning = asyncio.create_task(api.request("POST", "/v1/plan", batch(10_000)))
        answered_after_s: list[float] = []
        while not planning.done():
            asked_at = time.perf_counter()
            assert (await api.request("GET", "/healthz")).status == 200
            answered_after_s.append(time.perf_counter() - asked_at)
        assert (await planning).body["per_upstream"][0]["items"] == 10_000
    assert len(answered_after_s) >= 3
