"""The OpenAPI document is true: its examples work, its schemas are those of the answers, its paths those served."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from paceline.api.schemas import examples
from paceline.api.schemas.requests import CompareRequest, UpstreamPatch
from paceline.batch.batch_request import BatchRequest, FetchRequest
from support.in_process_api import InProcessApi, one_upstream_config, start_api
from tools.scripted_upstream import ScriptedUpstream


def config(url: str) -> dict[str, Any]:
    declared = one_upstream_config(url)
    declared["upstreams"]["github"] = declared["upstreams"].pop("api")
    return declared | {"compare": {"target": {"upstream": "github", "path": "/get"}}}


async def described(api: InProcessApi) -> dict[str, Any]:
    answer = await api.request("GET", "/openapi.json")
    assert answer.status == 200
    return answer.body


@pytest.mark.parametrize(
    ("given", "body"),
    [
        (examples.BATCH_REQUESTS, BatchRequest),
        (examples.FETCH_REQUESTS, FetchRequest),
        (examples.COMPARE_REQUESTS, CompareRequest),
        (examples.UPSTREAM_PATCHES, UpstreamPatch),
    ],
)
def test_every_example_of_a_body_is_one(given: dict[str, Any], body: type):
    for example in given.values():
        msgspec.json.decode(msgspec.json.encode(example["value"]), type=body)


async def test_the_examples_of_bodies_are_taken(upstream: ScriptedUpstream):
    async with start_api(config(upstream.url)) as api:
        for path, given in (("/v1/batch", examples.BATCH_REQUESTS), ("/v1/fetch", examples.FETCH_REQUESTS)):
            for example in given.values():
                body = msgspec.json.encode(example["value"]).replace(b"https://api.example.com", b"http://127.0.0.1:1")
                assert (await api.request("POST", path, body)).status == 200
        for example in examples.UPSTREAM_PATCHES.values():
            assert (await api.request("PATCH", "/v1/upstreams/github", example["value"])).status == 200
        for example in examples.COMPARE_REQUESTS.values():
            assert (await api.request("POST", "/v1/compare", example["value"])).status == 200


async def test_the_examples_of_answers_have_the_fields_of_real_ones(upstream: ScriptedUpstream):
    upstream.script_response(json={"login": "octocat"})
    item = {"upstream": "github", "path": "/x"}
    async with start_api(config(upstream.url)) as api:
        batch = await api.send_batch(item, {"upstream": "nobody"})
        assert shape(examples.BATCH_RESPONSE) == shape(batch)
        assert shape(examples.FETCH_RESPONSE) == shape((await api.request("POST", "/v1/fetch", item)).body)
        body = {"request": item, "n": 2, "strategies": ["adaptive"]}
        assert shape(examples.COMPARE_RESPONSE) == shape((await api.request("POST", "/v1/compare", body)).body)
        assert shape(examples.CLASSIC_RESPONSE) == shape((await api.request("GET", "/async/3")).body)
        await api.request("PATCH", "/v1/upstreams/github", {"rate": [{"limit": 80, "per": "1m"}]})
        shown = (await api.request("GET", "/v1/upstreams/github")).body
        for budget in shown["budgets"]:
            budget["last_rate_info"] = None
        assert shape(examples.UPSTREAM_RESPONSE) == shape(shown)
        refused = await api.request("POST", "/v1/batch", {"requests": [{"timeout": -1}]})
        assert shape(examples.PROBLEM_RESPONSES[422]) == shape(refused.body)


def shape(value: Any) -> Any:
    """The names of an answer's fields, without its values and its open maps."""
    if isinstance(value, dict):
        open_maps = ("headers", "body", "status_counts", "outcomes", "error", "response_headers")
        return {name: None if name in open_maps else shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return None


async def test_what_is_described_is_what_is_served(upstream: ScriptedUpstream):
    async with start_api(config(upstream.url)) as api:
        document = await described(api)
        for path, methods in document["paths"].items():
            concrete = path.replace("{name}", "github").replace("{num_requests}", "1").replace("{max_concurrent}", "1")
            allowed = await api.request("TRACE", concrete)
            assert allowed.status == 405, path
            offered = {method.upper() for method in methods if method != "parameters"}
            offered |= {"HEAD"} if "GET" in offered else set()
            assert set(allowed.headers["allow"].split(", ")) == offered


async def test_every_reference_leads_somewhere_and_every_refusal_is_a_problem(upstream: ScriptedUpstream):
    async with start_api(config(upstream.url)) as api:
        document = await described(api)
    known = document["components"]["schemas"].keys()
    wanted = set(references(document))
    assert {reference.rpartition("/")[2] for reference in wanted} <= known
    for methods in document["paths"].values():
        for method, operation in methods.items():
            if method == "parameters":
                continue
            for status, answer in operation["responses"].items():
                assert answer["description"]
                if int(status) >= 400 and operation["operationId"] != "readiness":
                    assert list(answer["content"]) == ["application/problem+json"]


def references(part: Any) -> Any:
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


async def test_the_document_follows_the_configuration(upstream: ScriptedUpstream):
    keyed = config(upstream.url) | {"server": {"max_items": 7, "api_keys": [{"name": "a", "key": "0123456789abcdef"}]}}
    async with start_api(keyed) as api:
        answer = await api.request("GET", "/openapi.json", paceline_key="0123456789abcdef")
    document = answer.body
    assert document["components"]["schemas"]["BatchRequest"]["properties"]["requests"]["maxItems"] == 7
    batch = document["paths"]["/v1/batch"]["post"]
    assert batch["security"] == [{"bearer": []}, {"key": []}]
    assert "401" in batch["responses"]
    assert "security" not in document["paths"]["/healthz"]["get"]
