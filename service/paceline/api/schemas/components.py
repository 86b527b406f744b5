"""The schemas of what msgspec decodes and encodes, made from the very types that do it, with the rules of batch/.

FastAPI makes the schemas of all other bodies from its response models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from paceline.api.errors import Problem
from paceline.api.problem_code import ProblemCode
from paceline.api.schemas.requests import CompareRequest, UpstreamPatch
from paceline.api.schemas.responses import BatchResponse
from paceline.batch.batch_request import BatchRequest, FetchRequest
from paceline.batch.field_types import MAX_COST_UNITS, MAX_VALUE, UNIT_PATTERN
from paceline.model import ErrorCode, Strategy
from paceline.units import DURATION_PATTERN, MAX_DURATION_S

Schema = dict[str, Any]

REF_TEMPLATE = "#/components/schemas/{name}"
_TYPES = (BatchRequest, FetchRequest, CompareRequest, UpstreamPatch, BatchResponse, Problem)
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
            "properties": {"requests": _AMOUNT | {"description": "Number of requests, at least 1 of each attempt."}},
            "propertyNames": {"pattern": f"^{UNIT_PATTERN}$"},
            "additionalProperties": {"type": "number", "minimum": 0, "maximum": MAX_VALUE},
            "maxProperties": MAX_COST_UNITS,
        },
    ],
}
_COUNT: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_VALUE}
_FIELD_RULES: dict[str, Schema] = {
    "timeout": _DURATION,
    "deadline": _DURATION,
    "per": _DURATION,
    "cost": _COST,
    "max_concurrency": _COUNT,
    "attempts": _COUNT,
    "throttles": {"type": "integer", "minimum": 0, "maximum": MAX_VALUE},
}
"""What a field of this name takes, wherever a request body has it."""


def msgspec_components(max_items: int) -> dict[str, Schema]:
    """Build the components by name; a batch has at most `max_items` items."""
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=REF_TEMPLATE)
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = " ".join(schema["description"].split())
        if schema.get("additionalProperties") is False:  # a request body, not a response
            _apply_field_rules(schema)
    for part in _iter_parts(schemas):
        if all(isinstance(value, str) for value in part.get("enum", [None])):
            part["type"] = "string"
    _add_item_rules(schemas)
    _add_batch_rules(schemas, max_items)
    _add_operator_rules(schemas, max_items)
    _add_response_rules(schemas)
    return schemas


def _apply_field_rules(schema: Schema) -> None:
    properties = schema["properties"]
    for name in properties.keys() & _FIELD_RULES.keys():
        rule, meaning = _FIELD_RULES[name], properties[name]["description"]
        properties[name] = rule | {"description": f"{meaning} {rule.get('description', '')}".strip()}
    if not schema["required"]:
        del schema["required"]


def _add_item_rules(schemas: dict[str, Schema]) -> None:
    for name in ("Item", "FetchRequest"):
        schemas[name]["not"] = {
            "type": "object",
            "anyOf": [
                {"required": ["json", "body"]},
                {"required": ["json", "body_base64"]},
                {"required": ["body", "body_base64"]},
                {"required": ["depends_on", "dependsOn"]},
            ],
        }
    for name in ("depends_on", "dependsOn"):
        del schemas["FetchRequest"]["properties"][name]


def _add_batch_rules(schemas: dict[str, Schema], max_items: int) -> None:
    batch, rate = schemas["BatchRequest"], schemas["RateSpec"]["properties"]
    batch["properties"]["requests"] |= {"minItems": 1, "maxItems": max_items}
    batch |= _where(
        [each for each in Strategy if not each.takes_max_concurrency],
        _without("max_concurrency", "rate"),
        _where(
            [each for each in Strategy if each.takes_max_concurrency and not each.takes_rate],
            _without("rate"),
            _where([Strategy.TOKEN_BUCKET], {"required": ["rate"]}),
        ),
    )
    rate["limit"] |= _AMOUNT
    rate["burst"] |= _AMOUNT
    rate["unit"]["pattern"] = f"^{UNIT_PATTERN}$"


def _where(strategies: list[Strategy], rule: Schema, otherwise: Schema | None = None) -> Schema:
    """A rule for some strategies, and one for the others: one chain, as Swagger UI shows the last only of several."""
    given = {"required": ["strategy"], "properties": {"strategy": {"enum": [each.value for each in strategies]}}}
    return {"if": given, "then": rule} | ({} if otherwise is None else {"else": otherwise})


def _without(*fields: str) -> Schema:
    return {"not": {"type": "object", "anyOf": [{"required": [field]} for field in fields]}}


def _add_operator_rules(schemas: dict[str, Schema], max_items: int) -> None:
    compare, patch = schemas["CompareRequest"]["properties"], schemas["UpstreamPatch"]
    compare["n"] |= {"minimum": 1, "maximum": max_items}
    for name in ("strategies", "engines"):
        compare[name] |= {"minItems": 1, "uniqueItems": True}
    patch["minProperties"] = 1
    patch["properties"]["rate"]["minItems"] = 1


def _add_response_rules(schemas: dict[str, Schema]) -> None:
    outcome, timing = schemas["Outcome"]["properties"], schemas["Timing"]["properties"]
    outcome["body"] = {"description": outcome["body"]["description"]}  # any JSON value
    outcome["body_encoding"]["enum"] = ["json", "text", "base64", "none"]
    timing["limited_by"]["enum"] = ["rate", "concurrency", "backoff", "pause", "upstream"]
    for name, codes in (("Failure", ErrorCode), ("Problem", ProblemCode)):
        code = schemas[name]["properties"]["code"]
        code["enum"] = [each.value for each in codes]
        code["description"] += "\n\n" + describe_codes(codes)


def describe_codes(codes: Iterable[ErrorCode | ProblemCode]) -> str:
    """A Markdown list of codes, each with its meaning and what to do."""
    return "\n".join(f"- `{code}`: {code.meaning} {code.fix}" for code in codes)


def _iter_parts(part: object) -> Iterator[Schema]:
    """Every schema in a document, at any depth."""
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from _iter_parts(value)
    elif isinstance(part, list):
        for value in part:
            yield from _iter_parts(value)
