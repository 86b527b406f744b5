"""`/v1/strategies`, `/v1/compare` and the classic forms."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from paceline.model import Strategy
from support.in_process_api import one_upstream_config, start_api
from tools.scripted_upstream import ScriptedUpstream, disconnect, never_respond

X: dict[str, Any] = {"upstream": "api", "path": "/x"}
RATE = [{"limit": 20, "per": "200ms"}]


async def test_every_strategy_is_described():
    async with start_api({}) as api:
        listed = (await api.request("GET", "/v1/strategies")).body["strategies"]
    assert {each["name"] for each in listed} == set(Strategy)
    assert [each["name"] for each in listed if each["default"]] == ["adaptive"]
    layers = {each["name"]: each["layers"] for each in listed}
    assert layers["token_bucket"] == [
        "deadline",
        "retry",
        "semaphore",
        "token bucket",
        "admission",
        "attempt timeout",
        "send",
    ]
    required = {each["name"]: [p["name"] for p in each["parameters"] if p["required"]] for each in listed}
    assert required["token_bucket"] == ["rate"]


async def test_a_comparison_measures_each_strategy(upstream: ScriptedUpstream):
    upstream.script_response("/x", json={})
    # The upstream shares this test's event loop: on a busy machine it may count a request long after it was written.
    async with start_api(one_upstream_config(upstream.url, rate=RATE, transit="200ms")) as api:
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


def classic(url: str, **policy: Any) -> dict[str, Any]:
    return one_upstream_config(url, **policy) | {"compare": {"target": {"upstream": "api", "path": "/get"}}}


@pytest.mark.parametrize(
    ("path", "most_at_once"), [("/sync/6", (1, 1)), ("/async/6", (2, 6)), ("/async_sem/6/2", (1, 2))]
)
async def test_the_classic_forms_differ_in_how_many_fly(
    upstream: ScriptedUpstream, path: str, most_at_once: tuple[int, int]
):
    upstream.script_response("/get", delay_s=0.05)
    async with start_api(classic(upstream.url)) as api:
        answer = await api.request("GET", path)
    assert answer.status == 200
    assert list(answer.body) == ["message", "status_codes"]
    assert answer.body["status_codes"] == [200] * 6
    assert "6 of 6" in answer.body["message"]
    assert most_at_once[0] <= upstream.in_progress_max <= most_at_once[1]


async def test_the_classic_forms_try_each_request_once_and_on_httpx(upstream: ScriptedUpstream, monkeypatch):
    upstream.script_response("/get", status=503, times=1)
    upstream.script("/get", disconnect(), times=1)
    upstream.script_response("/get", status=200)
    async with start_api(classic(upstream.url)) as api:
        opened, seen = api.service.runner.open_run, []
        monkeypatch.setattr(api.service.runner, "open_run", lambda batch: seen.append(batch) or opened(batch))
        answer = await api.request("GET", "/sync/3")
    assert answer.body["status_codes"] == [503, 0, 200]  # 0: no answer
    assert len(upstream.requests) == 3
    assert [batch.engine for batch in seen] == ["httpx"]


async def test_a_classic_form_of_no_size_is_422(upstream: ScriptedUpstream):
    refused = {
        "/sync/0": "num_requests",
        "/sync/-1": "num_requests",
        "/sync/1.5": "num_requests",
        "/sync/many": "num_requests",
        "/async/1001": "num_requests",
        "/async/99999999999999999999": "num_requests",
        "/async_sem/0/5": "num_requests",
        "/async_sem/5/0": "max_concurrent",
        "/async_sem/5/x": "max_concurrent",
    }
    async with start_api(classic(upstream.url)) as api:
        for path, field in refused.items():
            answer = await api.request("GET", path)
            assert (answer.status, answer.body["field"]) == (422, field), path
    assert upstream.requests == []


async def test_without_a_target_the_fix_is_named(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url)) as api:
        answer = await api.request("GET", "/async/5")
    assert (answer.status, answer.body["code"]) == (409, "no_compare_target")
    assert "compare.target" in answer.body["detail"]
