"""A decoder's refusal in words: the field, what it holds, and what it may hold.

The decoder reports the path and the type it found; the type that was expected says what is allowed there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from paceline.batch.input_errors import FieldError

_MESSAGE = re.compile(r"(.*?)(?: - at `(?:key in )?\$(?P<at>[\w.\[\]]*)`)?", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING_FIELD = re.compile(r"Object missing required field `(.*)`")
_INVALID_ENUM_VALUE = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_WRONG_TYPE = re.compile(r"Expected `.*`, got `(.*)`")
_PATH_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")

_RECEIVED_TYPE_NAMES = {
    "object": "an object",
    "array": "a list",
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "a boolean",
}
_EXPECTED_TYPE_NAMES: dict[type[inspect.Type], str] = {
    inspect.BoolType: "true or false",
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "text",
    inspect.ListType: "a list",
    inspect.DictType: "an object",
    inspect.StructType: "an object",
}
_ALIASES = {"dependsOn"}

_MAX_QUOTED_CHARS = 200
"""The longest piece of the input that a message repeats."""

_MAX_SEARCHED_BYTES = 256 * 1024
"""The key of a map is searched in no larger input, since the search decodes all of it."""


def explain_decode_error(
    message: str, part: bytes | msgspec.Raw, expected_type: Any, parent_path: str = ""
) -> FieldError:
    """Explain the decoder's `message` about the part at `parent_path`, which was decoded as `expected_type`."""
    match = _MESSAGE.fullmatch(message)
    assert match is not None
    reason, path = match[1], match["at"] or ""
    field_type = _resolve_type(_inspect_type(expected_type), path)
    full_path = _add_map_key(path, part, expected_type)
    if unknown := _UNKNOWN_FIELD.fullmatch(reason):
        return FieldError(
            _join_field_path(parent_path, full_path, unknown[1]),
            f"is not a field here; {_suggest_fields(unknown[1], field_type)}",
        )
    if missing := _MISSING_FIELD.fullmatch(reason):
        return FieldError(_join_field_path(parent_path, full_path, missing[1]), "is required; add it")
    return FieldError(_join_field_path(parent_path, full_path), _describe_problem(reason, field_type))


@cache
def _inspect_type(expected_type: Any) -> inspect.Type:
    return inspect.type_info(expected_type)


def _join_field_path(parent_path: str, path: str, name: str = "") -> str:
    return truncate(
        ".".join(filter(None, (f"{parent_path}{path}" if path.startswith("[") else parent_path, path.strip("."), name)))
    )


def _describe_problem(reason: str, field_type: inspect.Type | None) -> str:
    expected = "" if field_type is None else _describe_type(field_type)
    if (match := _INVALID_ENUM_VALUE.fullmatch(reason)) and expected:
        return f"is {truncate(match[1])}; it must be {expected}"
    if (match := _WRONG_TYPE.fullmatch(reason)) and expected:
        if match[1] == "float" and isinstance(field_type, inspect.IntType):
            return "must be a whole number, not a fraction; correct it"
        return f"must be {expected}, not {_RECEIVED_TYPE_NAMES.get(match[1], match[1])}; correct it"
    return f"cannot be used: {truncate(reason[:1].lower() + reason[1:])}; correct it"


def _suggest_fields(name: str, struct_type: inspect.Type | None) -> str:
    fields = [each.encode_name for each in struct_type.fields] if isinstance(struct_type, inspect.StructType) else []
    fields = [each for each in fields if each not in _ALIASES]
    if close := get_close_matches(name[:_MAX_QUOTED_CHARS].lower(), fields, n=1):
        return f"did you mean {close[0]}?"
    return f"the fields here are {', '.join(fields)}"


def _describe_type(field_type: inspect.Type) -> str:
    if isinstance(field_type, inspect.EnumType):
        return f"one of {', '.join(str(each.value) for each in field_type.cls)}"
    if isinstance(field_type, inspect.LiteralType):
        return f"one of {', '.join(map(str, field_type.values))}"
    if isinstance(field_type, inspect.UnionType):
        kinds = {type(each) for each in field_type.types}
        if kinds == {inspect.StrType, inspect.IntType, inspect.FloatType}:
            return 'a time such as "30s", or a number of seconds'
        return " or ".join(map(_describe_type, field_type.types))
    return _EXPECTED_TYPE_NAMES.get(type(field_type), "")


def _iter_path_steps(path: str) -> Iterator[tuple[str | None, str | None]]:
    """Yield each step as a name or as an index of a list or map (`...`); the other of the pair is None."""
    for step in _PATH_STEP.finditer(path):
        yield step[1], step[2]


def _resolve_type(field_type: inspect.Type | None, path: str) -> inspect.Type | None:
    for name, index in _iter_path_steps(path):
        kinds = field_type.types if isinstance(field_type, inspect.UnionType) else (field_type,)
        inner: list[inspect.Type] = []
        for kind in kinds:
            if name is not None and isinstance(kind, inspect.StructType):
                inner += [each.type for each in kind.fields if each.encode_name == name]
            elif index == "..." and isinstance(kind, inspect.DictType):
                inner.append(kind.value_type)
            elif index is not None and index != "..." and isinstance(kind, inspect.ListType):
                inner.append(kind.item_type)
        field_type = _strip_metadata(inner[0]) if inner else None
    return field_type


def _strip_metadata(field_type: inspect.Type) -> inspect.Type:
    """The type below its description."""
    return field_type.type if isinstance(field_type, inspect.Metadata) else field_type


def _add_map_key(path: str, part: bytes | msgspec.Raw, expected_type: Any) -> str:
    """Put the key of a map, which the decoder leaves out, into the path: the first whose value has the wrong type."""
    before, dots, after = path.partition("[...]")
    if not dots:
        return path
    if memoryview(part).nbytes > _MAX_SEARCHED_BYTES:
        return before
    value_type = _resolve_type(_inspect_type(expected_type), f"{before}[...]")
    assert value_type is not None
    try:
        values: Any = msgspec.json.decode(part)
        for name, index in _iter_path_steps(before):
            values = values[name if name is not None else int(index or 0)]
        bad_key = next((key for key, value in values.items() if not _matches_type(value, value_type)), None)
    except (msgspec.DecodeError, RecursionError, LookupError, TypeError, AttributeError):
        return before  # it has other mistakes too, further on
    return before if bad_key is None else f"{before}.{bad_key}{after}"


def _matches_type(value: object, expected_type: inspect.Type) -> bool:
    if isinstance(expected_type, inspect.UnionType):
        return any(_matches_type(value, each) for each in expected_type.types)
    if isinstance(expected_type, inspect.ListType):
        return isinstance(value, list) and all(_matches_type(each, expected_type.item_type) for each in value)
    if isinstance(expected_type, inspect.FloatType):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)


def truncate(text: str) -> str:
    """Cut a long text."""
    return text if len(text) <= _MAX_QUOTED_CHARS else f"{text[:_MAX_QUOTED_CHARS]}..."
