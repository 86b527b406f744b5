"""`/v1/upstreams`: the state of upstreams, and changes to it: pause, retune, reset."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from support.in_process_api import InProcessApi, one_upstream_config, start_api
from tools.scripted_upstream import ScriptedUpstream
from tools.waiting import wait_until

X: dict[str, Any] = {"upstream": "api", "path": "/x"}
RATE = [{"limit": 80, "per": "1m", "burst": 10}]


async def test_an_upstream_is_shown_as_it_stands(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url, rate=RATE, concurrency={"limit": 7})) as api:
        await api.send_batch(X, X)
        [listed] = (await api.request("GET", "/v1/upstreams")).body["upstreams"]
        shown = (await api.request("GET", "/v1/upstreams/api")).body
        unknown = await api.request("GET", "/v1/upstreams/nobody")
    assert listed == shown
    assert (shown["name"], shown["base_url"], shown["engine"]) == ("api", upstream.url, "aiohttp")
    assert (shown["paused"], shown["in_flight"], shown["queued"], shown["concurrency_limit"]) == (False, 0, 0, 7)
    [window] = shown["budgets"][0]["windows"]
    assert (window["limit"], window["per"], window["remaining"], window["source"]) == (80, "1m", 78, "declared")
    assert (unknown.status, unknown.body["code"]) == (404, "unknown_upstream")


async def test_a_limit_told_without_what_remains_of_it_is_shown_by_our_own_count(upstream: ScriptedUpstream):
    policy = {"ratelimit": "limit=100, remaining=50, reset=5", "ratelimit-policy": "10;w=1, 100;w=60"}
    unknown = {"x-ratelimit-limit-requests": "10", "x-ratelimit-remaining-requests": "-1"}
    upstream.script_response("/x", headers=policy)
    upstream.script_response("/y", headers=unknown)
    async with start_api(one_upstream_config(upstream.url)) as api:
        await api.send_batch(X)
        [budget] = (await api.request("GET", "/v1/upstreams/api")).body["budgets"]
        assert sorted((each["per"], each["limit"], each["source"]) for each in budget["windows"]) == [
            ("1m", 100, "header"),
            ("1s", 10, "header"),
        ]
        assert all(each["remaining"] <= each["limit"] for each in budget["windows"])
        assert (await api.request("GET", "/metrics")).status == 200
        await api.request("PATCH", "/v1/upstreams/api", {"reset": True})
        await api.send_batch({**X, "path": "/y"})
        [budget] = (await api.request("GET", "/v1/upstreams/api")).body["budgets"]
    assert budget["windows"] == []  # nobody knows what is left, so nothing is held
    assert budget["last_rate_info"]["windows"][0]["limit"] == 10


async def test_what_was_told_is_shown_as_it_was_told(upstream: ScriptedUpstream):
    reset = str(int(time.time()) + 3600)
    github = {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "4999", "x-ratelimit-reset": reset}
    upstream.script_response("/x", headers=github | {"x-ratelimit-resource": "core"})
    upstream.script_response("/y", status=403, headers=github | {"x-ratelimit-remaining": "0"})
    async with start_api(one_upstream_config(upstream.url)) as api:
        await api.send_batch(X)
        told = (await api.request("GET", "/v1/upstreams/api")).body["budgets"][0]["last_rate_info"]
        refused = (await api.send_batch({**X, "path": "/y"}))["responses"][0]
        [budget] = (await api.request("GET", "/v1/upstreams/api")).body["budgets"]
    [window] = told["windows"]
    assert (told["dialect"], told["clamped"], window["per"]) == ("github", True, "1h")
    assert 3_500_000 < window["reset_after_ms"] <= 3_600_000  # beyond `max_pause`, for which at most it holds
    assert (refused["attempts"], refused["error"]["code"]) == (1, "throttled")
    assert refused["error"]["retry_after_ms"] > 3_500_000
    assert 0 < budget["paused_for_ms"] <= 900_000


async def test_a_paused_upstream_holds_its_calls_until_it_is_let_go(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url)) as api:
        paused = await api.request("PATCH", "/v1/upstreams/api", {"paused": True})
        assert paused.body["paused"] is True
        batch = asyncio.create_task(api.send_batch(X))
        await wait_until_queued(api, 1)
        assert upstream.requests == []
        await api.request("PATCH", "/v1/upstreams/api", {"paused": False})
        answer = await batch
    [outcome] = answer["responses"]
    assert outcome["outcome"] == "success"
    assert outcome["timing"]["limited_by"] == "pause"


async def test_a_retune_holds_until_a_reset(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url, rate=RATE)) as api:
        changed = await api.request(
            "PATCH",
            "/v1/upstreams/api",
            {"rate": [{"limit": 5, "per": "10s"}, {"limit": 9, "per": 60, "unit": "tokens"}]},
        )
        windows = changed.body["budgets"][0]["windows"]
        assert [(each["limit"], each["per"], each["unit"]) for each in windows] == [
            (5, "10s", "requests"),
            (9, "1m", "tokens"),
        ]
        both = await api.request("PATCH", "/v1/upstreams/api", {"reset": True, "paused": True})
        assert both.body["paused"] is True  # reset goes first
        assert [each["limit"] for each in both.body["budgets"][0]["windows"]] == [80]
        reset = await api.request("PATCH", "/v1/upstreams/api", {"reset": True})
        assert reset.body["paused"] is False


async def test_what_can_never_be_paid_after_a_retune_is_rejected(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url, rate=RATE)) as api:
        await api.request("PATCH", "/v1/upstreams/api", {"paused": True})
        batch = asyncio.create_task(api.send_batch({**X, "cost": 50}, X))
        await wait_until_queued(api, 2)
        await api.request("PATCH", "/v1/upstreams/api", {"rate": [{"limit": 10, "per": "1s"}], "paused": False})
        costly, cheap = (await batch)["responses"]
    assert (costly["outcome"], costly["error"]["code"]) == ("rejected", "invalid_request")
    assert cheap["outcome"] == "success"


async def test_a_change_that_cannot_be_made_whole_changes_nothing(upstream: ScriptedUpstream):
    refused = [
        ({}, None),
        ({"pause": True}, "pause"),
        ({"paused": "yes"}, "paused"),
        ({"paused": True, "rate": []}, "rate"),
        ({"paused": True, "rate": [{"limit": 0, "per": "1s"}]}, "rate[0].limit"),
        ({"paused": True, "rate": [{"limit": 1, "per": "1s"}, {"limit": 5, "per": "x"}]}, "rate[1].per"),
        ({"reset": True, "rate": {"limit": 1, "per": "1s"}}, "rate"),
    ]
    async with start_api(one_upstream_config(upstream.url, rate=RATE)) as api:
        before = (await api.request("GET", "/v1/upstreams/api")).body
        for body, field in refused:
            answer = await api.request("PATCH", "/v1/upstreams/api", body)
            assert (answer.status, answer.body.get("field")) == (422, field), body
        assert (await api.request("GET", "/v1/upstreams/api")).body == before


async def wait_until_queued(api: InProcessApi, calls: int) -> None:
    async def are_queued() -> bool:
        return bool((await api.request("GET", "/v1/upstreams/api")).body["queued"] >= calls)

    await wait_until(are_queued)
