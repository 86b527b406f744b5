"""The OpenAPI document: FastAPI makes it from the routes; added here is what the routes cannot say.

That is the bodies that msgspec reads and writes, the problems that any request may meet, and what the configuration
decides: the size of a batch, and API keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from warnings import catch_warnings, simplefilter

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from msgspec import Struct

from paceline.api.content_negotiation import JSON
from paceline.api.errors import PROBLEM_TYPE, reason_phrase
from paceline.api.middleware.authentication import is_public
from paceline.api.problem_code import ProblemCode
from paceline.api.schemas.components import REF_TEMPLATE, Schema, describe_codes, msgspec_components
from paceline.api.schemas.examples import PROBLEM_RESPONSES
from paceline.config.server import ServerConfig

DESCRIPTION = (
    "A batch of HTTP requests goes out as fast as each upstream allows and no faster, and every item comes back. "
    "Errors of the API are problem documents (RFC 9457) with a `code`, and with the `field` that must be corrected; "
    "an item that fails has an `error` with a `code` in its outcome. Each code is listed with what to do about it."
)
TAGS = [
    {"name": "requests", "description": "Send many requests, or one; or see first what a batch would take."},
    {"name": "strategies", "description": "The strategies by which a batch is sent, and comparisons of them."},
    {"name": "upstreams", "description": "Live state of the upstreams; pause one, change its rate, or reset it."},
    {"name": "operations", "description": "Health, readiness and metrics. No API key is needed here."},
]

_UNDECLARED_CODES = (ProblemCode.NOT_HTTP, ProblemCode.NOT_FOUND)
"""No route responds with these: the request reaches none."""
_HEADERS = {
    401: ("WWW-Authenticate", "How to send the API key."),
    429: ("Retry-After", "Seconds to wait before the next request."),
    503: ("Retry-After", "Seconds to wait before the next request."),
}
_SECURITY_SCHEMES: dict[str, Schema] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "key": {"type": "apiKey", "in": "header", "name": "Paceline-Key", "description": "`Paceline-Key: KEY`"},
}


def openapi_builder(app: FastAPI, get_server_config: Callable[[], ServerConfig]) -> Callable[[], Schema]:
    """Build what `app.openapi` is replaced with: the document of the configuration in force, built once for each."""

    @lru_cache(maxsize=1)
    def build(max_items: int, keyed: bool) -> Schema:
        return _build_document(app, max_items, keyed=keyed)

    def openapi() -> Schema:
        server = get_server_config()
        return build(server.max_items, bool(server.api_keys))

    return openapi


def request_body(model: type[Struct], examples: dict[str, Schema]) -> Schema:
    """Build the `openapi_extra` of a route that decodes its body with msgspec."""
    media = {"schema": {"$ref": REF_TEMPLATE.format(name=model.__name__)}, "examples": examples}
    return {"requestBody": {"required": True, "content": {JSON: media}}}


def json_response(model: type[Struct], example: object, description: str) -> Schema:
    """Build the response of a route that encodes its body with msgspec."""
    media = {"schema": {"$ref": REF_TEMPLATE.format(name=model.__name__)}, "example": example}
    return {"description": description, "content": {JSON: media}}


def problem_responses(*statuses: int) -> dict[int | str, Schema]:
    """Build the `responses` of a route: a problem document for each status, with the codes it may have."""
    return {status: _problem_response(status) for status in statuses}


def _problem_response(status: int) -> Schema:
    codes = [code for code in ProblemCode if code.status == status and code not in _UNDECLARED_CODES]
    example = PROBLEM_RESPONSES.get(status) or {
        "type": "about:blank",
        "title": reason_phrase(status),
        "status": status,
        "detail": codes[0].meaning,
        "code": codes[0].value,
    }
    media: Schema = {"schema": {"$ref": REF_TEMPLATE.format(name="Problem")}, "example": example}
    response: Schema = {
        "description": f"{reason_phrase(status)}\n\n{describe_codes(codes)}",
        "content": {PROBLEM_TYPE: media},
    }
    if status in _HEADERS:
        name, description = _HEADERS[status]
        response["headers"] = {name: {"description": description, "schema": {"type": "string"}}}
    return response


def _build_document(app: FastAPI, max_items: int, *, keyed: bool) -> Schema:
    with catch_warnings():
        simplefilter("ignore", UserWarning)  # that GET and HEAD of a route have one operation id
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
    for operations in document["paths"].values():
        operations.pop("head", None)
    components = document["components"]
    components["schemas"] |= msgspec_components(max_items)
    for name in ("HTTPValidationError", "ValidationError"):  # an invalid request is answered with a problem
        components["schemas"].pop(name, None)
    if keyed:
        components["securitySchemes"] = _SECURITY_SCHEMES
    for path, _, operation in _iter_operations(document):
        _add_common_problems(operation, keyed=keyed and not is_public(path))
        for parameter in operation.get("parameters", ()):
            if parameter["name"] == "num_requests":
                parameter["schema"]["maximum"] = max_items
    _restore_examples(app, document)
    return document


def _iter_operations(document: Schema) -> Iterator[tuple[str, str, Schema]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def _add_common_problems(operation: Schema, *, keyed: bool) -> None:
    responses = operation["responses"]
    if PROBLEM_TYPE not in responses.get("422", {}).get("content", {PROBLEM_TYPE: {}}):
        del responses["422"]  # FastAPI's own, for parameters that cannot be wrong here
    statuses = {421, 500}
    if keyed:
        operation["security"] = [{name: []} for name in _SECURITY_SCHEMES]
        statuses |= {401, 429} if "503" in responses else {401}
    for status in statuses:
        responses.setdefault(str(status), _problem_response(status))
    operation["responses"] = dict(sorted(responses.items()))


def _restore_examples(app: FastAPI, document: Schema) -> None:
    """Put the examples of responses back as they are: FastAPI leaves every null out of them."""
    for route in iter_route_contexts(app.routes):
        operations = document["paths"].get(route.path_format, {})
        for method in route.methods or ():
            for status, response in route.responses.items() if method.lower() in operations else ():
                for media_type, media in response.get("content", {}).items():
                    if "example" in media:
                        shown = operations[method.lower()]["responses"][str(status)]["content"][media_type]
                        shown["example"] = media["example"]
