"""`POST /v1/compare`: strategies and engines measured against one another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from paceline.model import Strategy
from support.in_process_api import one_upstream_config, start_api
from tools.scripted_upstream import ScriptedUpstream, never_respond

X: dict[str, Any] = {"upstream": "api", "path": "/x"}
RATE = [{"limit": 20, "per": "200ms"}]


async def test_a_comparison_measures_each_strategy(upstream: ScriptedUpstream):
    upstream.script_response("/x", json={})
    # The upstream shares this test's event loop: on a busy machine it may count a request long after it was written.
    async with start_api(one_upstream_config(upstream.url, rate=RATE, transit="2s")) as api:
        answer = await api.request("POST", "/v1/compare", {"request": X, "n": 30})
    assert answer.status == 200, answer.body
    assert (answer.body["upstream"], answer.body["n"], answer.body["unpaced"]) == ("api", 30, False)
    assert [each["strategy"] for each in answer.body["results"]] == list(Strategy)
    for each in answer.body["results"]:
        assert each["engine"] == "aiohttp"
        assert each["outcomes"] == {"success": 30}
        assert each["status_counts"] == {"200": 30}
        assert (each["attempts"], each["retries"], each["refusals"]) == (30, 0, 0)
        assert each["p50_ms"] <= each["p95_ms"] <= each["p99_ms"] <= each["elapsed_ms"]
        assert each["throughput_per_s"] == pytest.approx(30_000 / each["elapsed_ms"], rel=0.01)
    assert len(upstream.requests) == 150
    assert upstream.max_requests_within(0.2) <= 20  # the declared window binds every strategy, one after another too


async def test_engines_are_compared_each_with_every_strategy(upstream: ScriptedUpstream):
    body = {"request": X, "n": 3, "strategies": ["concurrent", "adaptive"], "engines": ["httpx", "aiohttp"]}
    async with start_api(one_upstream_config(upstream.url)) as api:
        results = (await api.request("POST", "/v1/compare", body)).body["results"]
    assert [(each["engine"], each["strategy"]) for each in results] == [
        ("httpx", "concurrent"),
        ("httpx", "adaptive"),
        ("aiohttp", "concurrent"),
        ("aiohttp", "adaptive"),
    ]


async def test_unpaced_the_classic_forms_show_refusals_and_adaptive_has_none(demo_upstream):
    demo = await demo_upstream(limit=20, per="300ms")
    config = one_upstream_config(demo.url, rate=[{"limit": 20, "per": "300ms"}], allow_unpaced=True)
    body = {"request": X, "n": 40, "unpaced": True, "strategies": ["concurrent", "adaptive"]}
    async with start_api(config) as api:
        answer = await api.request("POST", "/v1/compare", body)
    assert answer.status == 200, answer.body
    concurrent, adaptive = answer.body["results"]
    assert concurrent["refusals"] > 0
    assert (concurrent["attempts"], concurrent["retries"]) == (40, 0)
    assert concurrent["status_counts"]["429"] == concurrent["refusals"]
    assert (adaptive["refusals"], adaptive["outcomes"]) == (0, {"success": 40})


async def test_a_comparison_that_means_nothing_is_422(upstream: ScriptedUpstream):
    refused = [
        ({"n": 1}, "request"),
        ({"request": {}}, "request.url"),
        ({"request": {"upstream": "nobody"}}, "request.upstream"),
        ({"request": {"url": "http://127.0.0.1:1/"}}, "request.url"),
        ({"request": {**X, "url": upstream.url}}, "request.url"),
        ({"request": {**X, "depends_on": ["0"]}}, "request.depends_on"),
        ({"request": {**X, "timeout": -1}}, "request.timeout"),
        ({"request": X, "n": 0}, "n"),
        ({"request": X, "n": 1001}, "n"),
        ({"request": X, "strategies": []}, "strategies"),
        ({"request": X, "strategies": ["adaptive", "adaptive"]}, "strategies"),
        ({"request": X, "strategies": ["fast"]}, "strategies[0]"),
        ({"request": X, "engines": ["curl"]}, "engines[0]"),
        ({"request": X, "engines": []}, "engines"),
        ({"request": X, "max_concurrency": 0}, "max_concurrency"),
        ({"request": X, "rate": {"limit": 1, "per": 0}}, "rate.per"),
        ({"request": X, "strategies": ["token_bucket"]}, "rate"),
        ({"request": X, "unpaced": True}, "unpaced"),
        ({"request": X, "times": 5}, "times"),
    ]
    async with start_api(one_upstream_config(upstream.url)) as api:
        for body, field in refused:
            answer = await api.request("POST", "/v1/compare", body)
            assert (answer.status, answer.body["field"]) == (422, field), (body, answer.body)
    assert upstream.requests == []


async def test_a_caller_that_hangs_up_cancels_its_comparison(upstream: ScriptedUpstream):
    upstream.script("/silent", never_respond())
    body = {"request": {"upstream": "api", "path": "/silent"}, "n": 3, "strategies": ["concurrent", "adaptive"]}
    async with start_api(one_upstream_config(upstream.url)) as api:
        asking = asyncio.create_task(api.request("POST", "/v1/compare", body))
        await upstream.wait_until(lambda it: it.in_progress == 3)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await upstream.wait_until(lambda it: it.open_connections == 0)
        assert await api.load_shedder.wait_idle(5)
    assert len(upstream.requests) == 3
