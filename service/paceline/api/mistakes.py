"""What a decoder refused, in words: the field, what it holds, and what it may hold.

The decoder says where it was and what it met; the type that was to be read says what may stand there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any

import msgspec
from msgspec import UNSET, inspect

from paceline.api.errors import Invalid

_MESSAGE = re.compile(r"(.*?)(?: - at `(?:key in )?\$(?P<at>[\w.\[\]]*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_NO_MEMBER = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_OTHER_TYPE = re.compile(r"Expected `.*`, got `(.*)`")
_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")

_GOT = {
    "object": "an object",
    "array": "a list",
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "a boolean",
}
_MAY_BE: dict[type[inspect.Type], str] = {
    inspect.BoolType: "true or false",
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "text",
    inspect.ListType: "a list",
    inspect.DictType: "an object",
    inspect.StructType: "an object",
}
_SECOND_SPELLINGS = {"dependsOn"}

_CUT = 200
"""The longest piece of a body that is told back."""

_SEARCHED = 256 * 1024
"""In no larger body is the key of a map looked for: it is read whole for that."""


def mistake(message: str, part: bytes | msgspec.Raw, wanted: Any, within: str = "") -> Invalid:
    """The decoder's `message` about a part of a body, found at `within`, that was to be read as `wanted`."""
    found = _MESSAGE.fullmatch(message)
    assert found is not None
    what, at = found[1], found["at"] or ""
    shape = _shape_at(_shape(wanted), at)
    where = _with_key(at, part, wanted)
    if unknown := _UNKNOWN.fullmatch(what):
        return _told(_field(within, where, unknown[1]), f"is not a field here; {_meant(unknown[1], shape)}")
    if missing := _MISSING.fullmatch(what):
        return _told(_field(within, where, missing[1]), "is required; add it")
    return _told(_field(within, where), _problem(what, shape))


@cache
def _shape(wanted: Any) -> inspect.Type:
    return inspect.type_info(wanted)


def _told(field: str, problem: str) -> Invalid:
    return Invalid(f"{field or 'the body'} {problem}", field=field or UNSET)


def _field(within: str, at: str, name: str = "") -> str:
    return cut(".".join(filter(None, (f"{within}{at}" if at.startswith("[") else within, at.strip("."), name))))


def _problem(what: str, shape: inspect.Type | None) -> str:
    may_be = "" if shape is None else _may_be(shape)
    if (found := _NO_MEMBER.fullmatch(what)) and may_be:
        return f"is {cut(found[1])}; it must be {may_be}"
    if (found := _OTHER_TYPE.fullmatch(what)) and may_be:
        if found[1] == "float" and isinstance(shape, inspect.IntType):
            return "must be a whole number, not a fraction; correct it"
        return f"must be {may_be}, not {_GOT.get(found[1], found[1])}; correct it"
    return f"cannot be used: {cut(what[:1].lower() + what[1:])}; correct it"


def _meant(name: str, shape: inspect.Type | None) -> str:
    fields = [each.encode_name for each in shape.fields] if isinstance(shape, inspect.StructType) else []
    fields = [each for each in fields if each not in _SECOND_SPELLINGS]
    if close := get_close_matches(name[:_CUT].lower(), fields, n=1):
        return f"did you mean {close[0]}?"
    return f"the fields here are {', '.join(fields)}"


def _may_be(shape: inspect.Type) -> str:
    if isinstance(shape, inspect.EnumType):
        return f"one of {', '.join(str(each.value) for each in shape.cls)}"
    if isinstance(shape, inspect.LiteralType):
        return f"one of {', '.join(map(str, shape.values))}"
    if isinstance(shape, inspect.UnionType):
        kinds = {type(each) for each in shape.types}
        if kinds == {inspect.StrType, inspect.IntType, inspect.FloatType}:
            return 'a time such as "30s", or a number of seconds'
        return " or ".join(map(_may_be, shape.types))
    return _MAY_BE.get(type(shape), "")


def _steps(at: str) -> Iterator[tuple[str | None, str | None]]:
    """The names and the places in lists and maps (`...`) on the way; one of each pair."""
    for step in _STEP.finditer(at):
        yield step[1], step[2]


def _shape_at(shape: inspect.Type | None, at: str) -> inspect.Type | None:
    for name, place in _steps(at):
        kinds = shape.types if isinstance(shape, inspect.UnionType) else (shape,)
        inner: list[inspect.Type] = []
        for kind in kinds:
            if name is not None and isinstance(kind, inspect.StructType):
                inner += [each.type for each in kind.fields if each.encode_name == name]
            elif place == "..." and isinstance(kind, inspect.DictType):
                inner.append(kind.value_type)
            elif place is not None and place != "..." and isinstance(kind, inspect.ListType):
                inner.append(kind.item_type)
        shape = inner[0] if inner else None
    return shape


def _with_key(at: str, part: bytes | msgspec.Raw, wanted: Any) -> str:
    """The way with the key of a map in it, which the decoder does not tell: the first whose value does not fit."""
    before, dots, after = at.partition("[...]")
    if not dots:
        return at
    if memoryview(part).nbytes > _SEARCHED:
        return before
    shape = _shape_at(_shape(wanted), f"{before}[...]")
    assert shape is not None
    try:
        values: Any = msgspec.json.decode(part)
        for name, place in _steps(before):
            values = values[name if name is not None else int(place or 0)]
        wrong = next((key for key, value in values.items() if not _fits(value, shape)), None)
    except (msgspec.DecodeError, RecursionError, LookupError, TypeError, AttributeError):
        return before  # it has other mistakes too, further on
    return before if wrong is None else f"{before}.{wrong}{after}"


def _fits(value: object, shape: inspect.Type) -> bool:
    if isinstance(shape, inspect.UnionType):
        return any(_fits(value, each) for each in shape.types)
    if isinstance(shape, inspect.ListType):
        return isinstance(value, list) and all(_fits(each, shape.item_type) for each in value)
    if isinstance(shape, inspect.FloatType):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)


def cut(text: str) -> str:
    """The text, or where it is long its beginning."""
    return text if len(text) <= _CUT else f"{text[:_CUT]}..."
