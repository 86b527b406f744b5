"""`GET /docs`: the OpenAPI document as a page to read. It needs no script and nothing from any other host."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

from paceline.api.dependencies import ApiContext
from paceline.api.schemas.openapi import document

Schema = dict[str, Any]

_STYLE = files("paceline.api").joinpath("docs.css").read_text("utf-8")
_STYLE_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode("ascii")
_HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "minItems": "at least {} of them",
    "maxItems": "at most {} of them",
    "pattern": "written as {}",
    "default": "{} unless given",
}
_NAMES = {"string": "text", "number": "number", "integer": "whole number", "boolean": "true or false", "null": "null"}


def add_routes(app: FastAPI, core: ApiContext) -> None:
    @app.get("/docs", response_model=None)
    async def docs() -> Response:
        return HTMLResponse(page(document(core.config)), headers=_HEADERS)


def page(described: Schema) -> str:
    """The document as HTML."""
    about = described["info"]
    operations = [
        (path, method, operation, item.get("parameters", []))
        for path, item in described["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    ]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(about['title'])}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(about['title'])} {escape(about['version'])}</h1><p>{_prose(about['description'])}</p>",
        '<p>For tools: <a href="openapi.json">/openapi.json</a> (OpenAPI 3.1).</p><nav><ul>',
        *(
            f'<li><a href="#{operation["operationId"]}"><code>{method.upper()} {escape(path)}</code></a> '
            f"{_prose(operation['summary'])}</li>"
            for path, method, operation, _ in operations
        ),
        "</ul></nav>",
    ]
    for path, method, operation, parameters in operations:
        parts += _operation(path, method, operation, parameters)
    parts.append("<h2>Types</h2>")
    for name, schema in described["components"]["schemas"].items():
        parts += _component(name, schema)
    return "\n".join([*parts, "</body></html>"])


def _operation(path: str, method: str, operation: Schema, parameters: list[Schema]) -> Iterator[str]:
    yield f'<h2 id="{operation["operationId"]}"><code>{method.upper()} {escape(path)}</code></h2>'
    yield f"<p>{_prose(operation['summary'])}</p>"
    if operation.get("security"):
        yield "<p>Needs an API key: <code>Authorization: Bearer KEY</code> or <code>Paceline-Key: KEY</code>.</p>"
    if parameters:
        rows = ((f"<code>{escape(each['name'])}</code>", _type(each["schema"])) for each in parameters)
        yield _table(("in the path", "is"), rows)
    for media, body in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<h4>Body: {_type(body['schema'])} as <code>{escape(media)}</code></h4>"
        for example in body.get("examples", {}).values():
            yield _folded(example.get("summary", "Example"), _curl(path, method, example["value"]))
    yield "<h4>Answers</h4>"
    yield _table(("status", "is", "means"), _answers(operation["responses"]))
    for status, answer in operation["responses"].items():
        for media in answer.get("content", {}).values():
            if "example" in media:
                yield _folded(f"Example of {status}", json.dumps(media["example"], indent=2, ensure_ascii=False))


def _answers(answers: Schema) -> Iterator[tuple[str, ...]]:
    for status, answer in answers.items():
        contents = (
            f"<code>{escape(media)}</code>: {_type(content['schema'])}"
            for media, content in answer.get("content", {}).items()
        )
        yield escape(status), "<br>".join(contents), _prose(answer["description"])


def _component(name: str, schema: Schema) -> Iterator[str]:
    yield f'<h3 id="type-{quote(name)}">{escape(name)}</h3>'
    if "description" in schema:
        yield f"<p>{_prose(schema['description'])}</p>"
    properties, required = schema.get("properties"), schema.get("required", ())
    if not properties:
        yield f"<p>{_type({key: value for key, value in schema.items() if key != 'description'})}</p>"
        return
    rows = (
        (f"<code>{escape(field)}</code>{' (required)' if field in required else ''}", _type(value))
        for field, value in properties.items()
    )
    yield _table(("field", "is"), rows)


def _type(schema: Schema) -> str:
    """What a value is, in a few words."""
    if "description" in schema and "anyOf" in schema:
        words = _prose(schema["description"])
    elif "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        words = f'<a href="#type-{quote(name)}">{escape(name)}</a>'
    elif "enum" in schema:
        words = " or ".join(_value(each) for each in schema["enum"])
    elif "anyOf" in schema:
        words = " or ".join(map(_type, schema["anyOf"]))
    elif schema.get("type") == "array":
        words = f"list of {_type(schema.get('items', {}))}"
    elif schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        words = f"object of {_type(inner)}" if isinstance(inner, dict) else "object"
    else:
        words = _NAMES.get(schema.get("type", ""), "anything")
    bounds = [text.format(_value(schema[key])) for key, text in _BOUNDS.items() if key in schema]
    more = _prose(schema["description"]) if "description" in schema and "anyOf" not in schema else ""
    return ". ".join(filter(None, (", ".join([words, *bounds]), more)))


def _curl(path: str, method: str, value: object) -> str:
    body = json.dumps(value, indent=2, ensure_ascii=False).replace("'", "'\\''")
    verb = "" if method == "post" else f"-X {method.upper()} "
    return f"curl {verb}http://127.0.0.1:8080{path} -H 'content-type: application/json' -d '{body}'"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(content)}</pre></details>"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _value(value: object) -> str:
    return f"<code>{escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))}</code>"


def _prose(text: str) -> str:
    """Text in which `code` stands between backticks."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{each}</code>" if index % 2 else each for index, each in enumerate(pieces))
