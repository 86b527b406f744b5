"""The API's own description (OpenAPI 3.1), from the very types that read and write its bodies."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from paceline import __version__
from paceline.api.content_negotiation import EVENT_STREAM, JSON, NDJSON
from paceline.api.errors import PROBLEM_TYPE, Problem, reason_phrase
from paceline.api.schemas import examples
from paceline.api.schemas.requests import CompareRequest, UpstreamPatch
from paceline.api.schemas.responses import (
    BatchResponse,
    ClassicResponse,
    CompareResponse,
    HealthResponse,
    StrategyList,
    UpstreamList,
)
from paceline.batch.batch_request import BatchRequest, FetchRequest
from paceline.batch.field_types import MAX_COST_UNITS, MAX_VALUE, UNIT_PATTERN
from paceline.batch.plan import Plan
from paceline.config import Config
from paceline.units import DURATION_PATTERN, MAX_DURATION_S

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"
_TYPES = (
    BatchRequest,
    FetchRequest,
    CompareRequest,
    UpstreamPatch,
    BatchResponse,
    Plan,
    UpstreamList,
    StrategyList,
    CompareResponse,
    ClassicResponse,
    HealthResponse,
    Problem,
)
_DURATION: Schema = {
    "description": 'A duration such as "250ms", "30s", "2m" or "1h", or a number of seconds; above zero.',
    "anyOf": [
        {"type": "string", "pattern": rf"^(?=[0-9.]*[1-9]){DURATION_PATTERN}$"},
        {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_DURATION_S},
    ],
}
_AMOUNT: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_VALUE}
_COST: Schema = {
    "description": "A number of requests, or an amount for each unit: `requests` (1 at least), `tokens`, ...",
    "anyOf": [
        _AMOUNT,
        {
            "type": "object",
            "properties": {"requests": _AMOUNT},
            "propertyNames": {"pattern": f"^{UNIT_PATTERN}$"},
            "additionalProperties": {"type": "number", "minimum": 0, "maximum": MAX_VALUE},
            "maxProperties": MAX_COST_UNITS,
        },
    ],
}
_UP_TO_MOST: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_VALUE}
_FIELDS: dict[str, Schema] = {
    "timeout": _DURATION,
    "deadline": _DURATION,
    "per": _DURATION,
    "cost": _COST,
    "max_concurrency": _UP_TO_MOST,
    "attempts": _UP_TO_MOST,
    "throttles": {"type": "integer", "minimum": 0, "maximum": MAX_VALUE},
}
"""What a field of this name takes, wherever a body has it."""


def document(config: Config) -> Schema:
    """The description of the service as it is configured."""
    server = config.server
    schemas = _schemas(server.max_items)
    described: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "Paceline",
            "version": __version__,
            "description": "A batch of HTTP requests goes out as fast as each upstream allows and no faster, and "
            "every item comes back. Errors are problem documents (RFC 9457) with a `code`, and with the `field` "
            "that must be corrected.",
        },
        "paths": {},
        "components": {"schemas": schemas},
    }
    if server.api_keys:
        described["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "Paceline-Key"},
        }
    keyed = bool(server.api_keys)
    described["paths"] = {
        "/v1/batch": {"post": _batch(keyed)},
        "/v1/plan": {"post": _plan(keyed)},
        "/v1/fetch": {"post": _fetch(keyed)},
        "/v1/strategies": {"get": _strategies(keyed)},
        "/v1/upstreams": {"get": _upstreams(keyed)},
        "/v1/upstreams/{name}": {"parameters": [_NAME], "get": _upstream(keyed), "patch": _change(keyed)},
        "/v1/compare": {"post": _compare(keyed)},
        "/sync/{num_requests}": {
            "parameters": [_count("num_requests", server.max_items)],
            "get": _classic("one after another", keyed),
        },
        "/async/{num_requests}": {
            "parameters": [_count("num_requests", server.max_items)],
            "get": _classic("all at once", keyed),
        },
        "/async_sem/{num_requests}/{max_concurrent}": {
            "parameters": [_count("num_requests", server.max_items), _count("max_concurrent", MAX_VALUE)],
            "get": _classic("all at once under a semaphore", keyed),
        },
        "/healthz": {
            "get": _open("Is the process alive?", "health", {"200": _json("HealthResponse", examples.ALIVE_RESPONSE)})
        },
        "/readyz": {
            "get": _open(
                "Does it take batches?",
                "readiness",
                {
                    "200": _json("HealthResponse", examples.READY_RESPONSE),
                    "503": _json("HealthResponse", examples.NOT_READY_RESPONSE),
                },
            )
        },
        "/metrics": {
            "get": _open(
                "Prometheus text, or OpenMetrics where Accept asks for it.",
                "metrics",
                {
                    "200": {
                        "description": "OK",
                        "content": {
                            "text/plain": {"schema": {"type": "string"}},
                            "application/openmetrics-text": {"schema": {"type": "string"}},
                        },
                    }
                },
            )
        },
    }
    return described


def problem_responses(*statuses: int) -> dict[int | str, Schema]:
    """Build the `responses` of a route: a problem document for each of these statuses."""
    return {status: _problem(status) for status in statuses}


def request_body(model: type[Struct], examples: dict[str, Schema]) -> Schema:
    """Build the `openapi_extra` of a route that decodes its body with msgspec."""
    return {"requestBody": _body(model.__name__, examples)}


def json_response(model: type[Struct], example: object, description: str = "OK") -> Schema:
    """Build the response of a route that encodes its body with msgspec."""
    return _json(model.__name__, example) | {"description": description}


def _schemas(max_items: int) -> dict[str, Schema]:
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = " ".join(schema["description"].split())
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is False:  # a body, not an answer
            properties.update(
                {name: _describe_with(_FIELDS[name], properties[name]) for name in properties.keys() & _FIELDS}
            )
            if not schema.get("required"):
                schema.pop("required", None)
    for name in ("Item", "FetchRequest"):
        schemas[name]["allOf"] = [
            {"not": {"required": ["json", "body"]}},
            {"not": {"required": ["json", "body_base64"]}},
            {"not": {"required": ["body", "body_base64"]}},
            {"not": {"required": ["depends_on", "dependsOn"]}},
        ]
    for needs in ("depends_on", "dependsOn"):
        del schemas["FetchRequest"]["properties"][needs]
    batch = schemas["BatchRequest"]
    batch["properties"]["requests"] |= {"minItems": 1, "maxItems": max_items}
    batch["allOf"] = [
        _where(["sequential", "concurrent"], {"not": {"required": ["max_concurrency"]}}),
        _where(["sequential", "concurrent", "bounded"], {"not": {"required": ["rate"]}}),
        _where(["token_bucket"], {"required": ["rate"]}),
    ]
    rate = schemas["RateSpec"]["properties"]
    rate["limit"] |= _AMOUNT
    rate["burst"] |= _AMOUNT
    rate["unit"]["pattern"] = f"^{UNIT_PATTERN}$"
    compare = schemas["CompareRequest"]["properties"]
    compare["n"] |= {"minimum": 1, "maximum": max_items}
    for several in ("strategies", "engines"):
        compare[several] |= {"minItems": 1, "uniqueItems": True}
    patch = schemas["UpstreamPatch"]
    patch["minProperties"] = 1
    patch["properties"]["rate"]["minItems"] = 1
    outcome = schemas["Outcome"]["properties"]
    outcome["body"] = {"description": outcome["body"]["description"]}
    outcome["body_encoding"] |= {"enum": ["json", "text", "base64", "none"]}
    schemas["Timing"]["properties"]["limited_by"] |= {"enum": ["rate", "concurrency", "backoff", "pause", "upstream"]}
    return schemas


def _describe_with(rule: Schema, field: Schema) -> Schema:
    """What a field of this name takes, below what it means."""
    return rule | {"description": " ".join(filter(None, (field.get("description"), rule.get("description"))))}


def _where(strategies: list[str], then: Schema) -> Schema:
    given = {"required": ["strategy"], "properties": {"strategy": {"enum": strategies}}}
    return {"if": given, "then": then}


def _batch(keyed: bool) -> Schema:
    answer = _json("BatchResponse", examples.BATCH_RESPONSE)
    answer["description"] = "Whatever the items did; streams give outcomes as they come and the summary last."
    answer["content"] |= {
        NDJSON: {"schema": {"type": "string", "description": "An Outcome a line, then a line with `summary`."}},
        EVENT_STREAM: {"schema": {"type": "string", "description": "Events `item` (an Outcome) and, last, `summary`."}},
    }
    return _operation(
        "Send a batch of requests; one outcome for each.",
        "batch",
        {"200": answer},
        keyed=keyed,
        body=_body("BatchRequest", examples.BATCH_REQUESTS),
        errors=(400, 406, 413, 415, 422, 503),
    )


def _plan(keyed: bool) -> Schema:
    return _operation(
        "What a batch would take, told without sending anything of it.",
        "plan",
        {"200": _json("Plan", examples.PLAN_RESPONSE)},
        keyed=keyed,
        body=_body("BatchRequest", examples.BATCH_REQUESTS),
        errors=(400, 413, 415, 422, 503),
    )


def _fetch(keyed: bool) -> Schema:
    return _operation(
        "Send one request; its outcome.",
        "fetch",
        {"200": _json("Outcome", examples.FETCH_RESPONSE)},
        keyed=keyed,
        body=_body("FetchRequest", examples.FETCH_REQUESTS),
        errors=(400, 413, 415, 422, 503),
    )


def _strategies(keyed: bool) -> Schema:
    answer = _json("StrategyList", None)
    return _operation("The strategies, and what each is made of.", "strategies", {"200": answer}, keyed=keyed)


def _upstreams(keyed: bool) -> Schema:
    answer = _json("UpstreamList", {"upstreams": [examples.UPSTREAM_RESPONSE]})
    return _operation("How every declared upstream stands.", "upstreams", {"200": answer}, keyed=keyed)


def _upstream(keyed: bool) -> Schema:
    answer = _json("UpstreamState", examples.UPSTREAM_RESPONSE)
    return _operation("How one upstream stands.", "upstream", {"200": answer}, keyed=keyed, errors=(404,))


def _change(keyed: bool) -> Schema:
    return _operation(
        "Pause an upstream, change its rate until a reset or a reload, or reset it; of several at once, reset first.",
        "change_upstream",
        {"200": _json("UpstreamState", examples.UPSTREAM_RESPONSE)},
        keyed=keyed,
        body=_body("UpstreamPatch", examples.UPSTREAM_PATCHES),
        errors=(400, 404, 413, 415, 422),
    )


def _compare(keyed: bool) -> Schema:
    return _operation(
        "The same request `n` times under each strategy (and engine), one after another.",
        "compare",
        {"200": _json("CompareResponse", examples.COMPARE_RESPONSE)},
        keyed=keyed,
        body=_body("CompareRequest", examples.COMPARE_REQUESTS),
        errors=(400, 403, 413, 415, 422, 503),
    )


def _classic(how: str, keyed: bool) -> Schema:
    return _operation(
        f"The request of `compare.target`, {how}, on the httpx engine, one attempt each. A status code of 0 stands for "
        "a request that got no answer.",
        f"classic_{how.replace(' ', '_')}",
        {"200": _json("ClassicResponse", examples.CLASSIC_RESPONSE)},
        keyed=keyed,
        errors=(403, 409, 422, 503),
    )


def _open(summary: str, name: str, answers: Schema) -> Schema:
    return _operation(summary, name, answers, keyed=False)


def _operation(
    summary: str,
    name: str,
    answers: Schema,
    *,
    keyed: bool,
    body: Schema | None = None,
    errors: tuple[int, ...] = (),
) -> Schema:
    answers = dict(answers)
    shared = (429,) if keyed and 503 in errors else ()
    for status in sorted({*errors, *((401, *shared) if keyed else ()), 421, 500}):
        answers.setdefault(str(status), _problem(status))
    operation: Schema = {"summary": summary, "operationId": name, "responses": answers}
    if body is not None:
        operation["requestBody"] = body
    if keyed:
        operation["security"] = [{"bearer": []}, {"key": []}]
    return operation


def _problem(status: int) -> Schema:
    content = {PROBLEM_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}}
    if status in examples.PROBLEM_RESPONSES:
        content[PROBLEM_TYPE]["example"] = examples.PROBLEM_RESPONSES[status]
    answer: Schema = {"description": reason_phrase(status), "content": content}
    header = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}.get(status)
    if header is not None:
        answer["headers"] = {header: {"schema": {"type": "string"}}}
    return answer


def _json(name: str, example: object) -> Schema:
    media: Schema = {"schema": {"$ref": _REF.format(name=name)}}
    if example is not None:
        media["example"] = example
    return {"description": "OK", "content": {JSON: media}}


def _body(name: str, given: dict[str, Schema]) -> Schema:
    media = {"schema": {"$ref": _REF.format(name=name)}, "examples": given}
    return {"required": True, "content": {JSON: media}}


def _count(name: str, most: int) -> Schema:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "integer", "minimum": 1, "maximum": most},
        "example": 20,
    }


_NAME: Schema = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "example": "github"}
