"""API keys: which requests need one, and what a key may reach."""

from __future__ import annotations

from typing import Any

import pytest

from support.in_process_api import one_upstream_config, start_api
from tools.scripted_upstream import ScriptedUpstream

FULL, NARROW = "full-key-0123456789", "narrow-key-0123456789"
X: dict[str, Any] = {"upstream": "api", "path": "/x"}


def keyed(url: str) -> dict[str, Any]:
    config = one_upstream_config(url)
    config["upstreams"]["other-api"] = {"base_url": f"{url}/other", "allow_private": True}
    config["compare"] = {"target": {"upstream": "other-api", "path": "/x"}}
    config["server"] = {
        "api_keys": [
            {"name": "full", "key": FULL},
            {"name": "narrow", "key": NARROW, "max_priority": "bulk", "upstreams": ["api"]},
        ]
    }
    return config


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {FULL}"}, 200),
        ({"authorization": f"bearer {FULL}"}, 200),
        ({"authorization": f"Basic {FULL}"}, 401),
        ({"authorization": FULL}, 401),
        ({"paceline_key": FULL}, 200),
        ({"paceline_key": NARROW}, 200),
        ({"paceline_key": FULL + "x"}, 401),
        ({"paceline_key": FULL[:-1]}, 401),
        ({"paceline_key": ""}, 401),
        ({"authorization": "Bearer ", "paceline_key": ""}, 401),
    ],
)
async def test_a_key_is_asked_for(upstream: ScriptedUpstream, headers: dict[str, str], status: int):
    async with start_api(keyed(upstream.url)) as api:
        answer = await api.request("POST", "/v1/batch", {"requests": [X]}, **headers)
    assert answer.status == status
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.body["code"] == "unauthorized"
        assert upstream.requests == []


async def test_health_metrics_and_the_description_need_no_key_and_all_else_does(upstream: ScriptedUpstream):
    async with start_api(keyed(upstream.url)) as api:
        for path in ("/healthz", "/readyz", "/metrics", "/docs", "/docs/swagger-ui.css", "/openapi.json"):
            assert (await api.request("GET", path)).status == 200
        for path in (
            "/v1/upstreams",
            "/v1/strategies",
            "/sync/1",
            "/nothing",
            "/healthz/",
            "/docsx",
            "/openapi.json/",
        ):
            assert (await api.request("GET", path)).status == 401


async def test_a_key_is_never_forwarded(upstream: ScriptedUpstream):
    async with start_api(keyed(upstream.url)) as api:
        await api.request("POST", "/v1/batch", {"requests": [X]}, paceline_key=FULL)
        await api.request("POST", "/v1/fetch", X, authorization=f"Bearer {FULL}")
    assert len(upstream.requests) == 2
    for request in upstream.requests:
        assert FULL not in str(request.headers)


async def test_a_key_reaches_its_upstreams_only(upstream: ScriptedUpstream):
    async with start_api(keyed(upstream.url)) as api:
        items = [X, {"upstream": "other-api", "path": "/x"}, {"url": "http://192.0.2.1/"}]
        answer = await api.request("POST", "/v1/batch", {"requests": items}, paceline_key=NARROW)
        codes = [each["error"] and each["error"]["code"] for each in answer.body["responses"]]
        assert codes[:2] == [None, "forbidden_upstream"]
        assert answer.body["responses"][2]["outcome"] == "rejected"
        listed = await api.request("GET", "/v1/upstreams", paceline_key=NARROW)
        assert [each["name"] for each in listed.body["upstreams"]] == ["api"]
        for method, body in (("GET", None), ("PATCH", {"paused": True})):
            refused = await api.request(method, "/v1/upstreams/other-api", body, paceline_key=NARROW)
            assert refused.status == 404
        compared = await api.request(
            "POST", "/v1/compare", {"request": {"upstream": "other-api"}, "n": 1}, paceline_key=NARROW
        )
        assert (compared.status, compared.body["code"]) == (403, "forbidden_upstream")
        assert (await api.request("GET", "/sync/1", paceline_key=NARROW)).status == 403
        assert (await api.request("GET", "/sync/1", paceline_key=FULL)).status == 200
    assert not api.service.registry.get("other-api").async_gate.gate.paused


async def test_a_priority_above_the_keys_is_lowered(upstream: ScriptedUpstream, monkeypatch):
    async with start_api(keyed(upstream.url)) as api:
        seen = []
        opened = api.service.runner.open_run
        monkeypatch.setattr(
            api.service.runner, "open_run", lambda batch, *more: seen.append(batch) or opened(batch, *more)
        )
        for key in (FULL, NARROW):
            await api.request("POST", "/v1/batch", {"requests": [X], "priority": "interactive"}, paceline_key=key)
            await api.request("POST", "/v1/batch", {"requests": [X], "priority": "bulk"}, paceline_key=key)
    assert [batch.priority.value for batch in seen] == ["interactive", "bulk", "bulk", "bulk"]
    assert [batch.tenant.name for batch in seen] == ["full", "full", "narrow", "narrow"]


async def test_keys_change_with_a_reload(upstream: ScriptedUpstream):
    async with start_api(keyed(upstream.url)) as api:
        config = api.service.config
        api.service.apply(config.model_copy(update={"server": config.server.model_copy(update={"api_keys": ()})}))
        assert (await api.request("GET", "/v1/strategies")).status == 200
        api.service.apply(config)
        assert (await api.request("GET", "/v1/strategies")).status == 401
