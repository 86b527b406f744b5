"""The OpenAPI document is true: its examples work, its schemas are those of the answers, its paths those served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paceline.api.problem_code import ProblemCode
from paceline.api.schemas import examples
from paceline.api.schemas.requests import CompareRequest, UpstreamPatch
from paceline.batch.batch_request import BatchRequest, FetchRequest
from paceline.config import Config
from paceline.model import ErrorCode
from support.in_process_api import InProcessApi, one_upstream_config, start_api
from tools.scripted_upstream import ScriptedUpstream

API_PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text()


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


async def test_the_examples_of_answers_are_shown_whole(upstream: ScriptedUpstream):
    """Their nulls too."""
    async with start_api(config(upstream.url)) as api:
        paths = (await described(api))["paths"]
    for path, example in (("/v1/fetch", examples.FETCH_RESPONSE), ("/v1/batch", examples.BATCH_RESPONSE)):
        shown = paths[path]["post"]["responses"]["200"]["content"]["application/json"]
        assert shown["example"] == example


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
        assert document["paths"].keys() <= set(re.findall(r"[\w/{}]+", API_PAGE)), "docs/api.md names every path"
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


EMPTY_WORDS = ("", "OK", "Successful Response", "Validation Error")


async def test_everything_there_is_has_its_meaning(upstream: ScriptedUpstream):
    """Each operation, parameter, body's field, response, header and tag is described."""
    async with start_api(config(upstream.url)) as api:
        document = await described(api)
    parts = list(describable_parts(document))
    assert len(parts) > 250
    assert [where for where, part in parts if part.get("description", "").strip() in EMPTY_WORDS] == []


def describable_parts(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    used = set()
    for path, method, operation in operations(document):
        used |= set(operation["tags"])
        where = f"{method.upper()} {path}"
        assert operation["summary"], where
        yield where, operation
        yield from ((f"{where} {each['name']}", each) for each in operation.get("parameters", ()))
        for status, answer in operation["responses"].items():
            yield f"{where} {status}", answer
            yield from ((f"{where} {status} {name}", each) for name, each in answer.get("headers", {}).items())
    tags = {tag["name"]: tag for tag in document["tags"]}
    assert used == tags.keys()
    yield from tags.items()
    yield from document["components"]["schemas"].items()
    yield from properties(document["components"]["schemas"], "")


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def properties(part: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each field of each object in a schema, at any depth."""
    if isinstance(part, dict):
        for name, value in part.items():
            is_condition = where.endswith((".if", ".else.if"))  # which says when a rule holds, not what a field is
            if name == "properties" and not is_condition and all(isinstance(each, dict) for each in value.values()):
                yield from ((f"{where}.{field}", schema) for field, schema in value.items())
            yield from properties(value, f"{where}.{name}")
    elif isinstance(part, list):
        for value in part:
            yield from properties(value, where)


async def test_each_problem_says_its_codes_and_what_to_do(upstream: ScriptedUpstream):
    async with start_api(config(upstream.url)) as api:
        document = await described(api)
    for path, _, operation in operations(document):
        for status, answer in operation["responses"].items():
            if "application/problem+json" in answer["content"]:
                codes = [ProblemCode(code) for code in re.findall(r"^- `(\w+)`: ", answer["description"], re.MULTILINE)]
                example = answer["content"]["application/problem+json"]["example"]
                assert (example["status"], example["code"] in codes) == (int(status), True), (path, status)
                for code in codes:
                    assert code.status == int(status)
                    assert f"- `{code}`: {code.meaning} {code.fix}" in answer["description"]
    for name, every in (("Problem", ProblemCode), ("Failure", ErrorCode)):
        code = document["components"]["schemas"][name]["properties"]["code"]
        assert code["enum"] == list(every)
        assert all(f"- `{each}`: {each.meaning} {each.fix}" in code["description"] for each in every)


async def test_the_document_follows_the_configuration(upstream: ScriptedUpstream):
    keyed = config(upstream.url) | {"server": {"max_items": 7, "api_keys": [{"name": "a", "key": "0123456789abcdef"}]}}
    async with start_api(keyed) as api:
        answer = await api.request("GET", "/openapi.json", paceline_key="0123456789abcdef")
    document = answer.body
    schemas = document["components"]["schemas"]
    assert schemas["BatchRequest"]["properties"]["requests"]["maxItems"] == 7
    assert schemas["CompareRequest"]["properties"]["n"]["maximum"] == 7
    count = document["paths"]["/sync/{num_requests}"]["get"]["parameters"][0]
    assert (count["schema"]["minimum"], count["schema"]["maximum"]) == (1, 7)
    batch = document["paths"]["/v1/batch"]["post"]
    assert batch["security"] == [{"bearer": []}, {"key": []}]
    assert {"401", "429"} <= batch["responses"].keys()
    assert "401" in document["paths"]["/v1/strategies"]["get"]["responses"]
    assert document["components"]["securitySchemes"].keys() == {"bearer", "key"}
    assert "security" not in document["paths"]["/healthz"]["get"]
    async with start_api(config(upstream.url)) as api:
        open_to_all = await described(api)
    assert "securitySchemes" not in open_to_all["components"]
    for _, _, operation in operations(open_to_all):
        assert "security" not in operation
        assert not {"401", "429"} & operation["responses"].keys()


async def test_a_reload_changes_the_document(upstream: ScriptedUpstream):
    async with start_api(config(upstream.url)) as api:
        before = await described(api)
        api.service.apply(Config.model_validate(config(upstream.url) | {"server": {"max_items": 7}}))
        after = await described(api)
    maxima = [
        each["components"]["schemas"]["BatchRequest"]["properties"]["requests"]["maxItems"] for each in (before, after)
    ]
    assert maxima == [1000, 7]
