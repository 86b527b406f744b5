"""Pydantic's errors in an operator's words: problem and fix. No message repeats a value."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, get_origin

from pydantic import BaseModel

from paceline.config.key_path import KeyPath
from paceline.config.root import Config
from paceline.config.section import section_model

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_MESSAGES_BY_TYPE = {
    "missing": ("is required", "add it"),
    "literal_error": ("must be {expected}", "write one of these"),
    "enum": ("must be {expected}", "write one of these"),
    "greater_than": ("must be above {gt:g}", "write a larger number"),
    "greater_than_equal": ("must be {ge:g} or more", "write a larger number"),
    "less_than_equal": ("must be {le:g} or less", "write a smaller number"),
    "finite_number": ("must be a number", "write a number"),
    "string_pattern_mismatch": ("is not written as it must be", "make it match {pattern}"),
}
_MESSAGES_BY_VALUE_KIND = {
    "int": ("must be a whole number", "write a number without fraction"),
    "float": ("must be a number", "write a number"),
    "bool": ("must be true or false", "write true or false"),
    "string": ("must be text", "put it in quotes"),
    "model": ("must be a section", "write its keys indented below it"),
    "dict": ("must be a section", "write its keys indented below it"),
    "tuple": ("must be a list", "write it as [first, second]"),
    "frozen": ("must be a list", "write it as [first, second]"),
}
_DEFAULT_MESSAGE = ("cannot be used", "write it as docs/configuration.md has it")


def describe_error(error: ErrorDetails) -> tuple[str, str]:
    """Problem and fix of one of pydantic's errors."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        problem, _, fix = str(context["error"]).partition("; ")
        return problem, fix
    if kind == "extra_forbidden":
        return _describe_unknown_key(error)
    problem, fix = _MESSAGES_BY_TYPE.get(kind) or _MESSAGES_BY_VALUE_KIND.get(kind.partition("_")[0], _DEFAULT_MESSAGE)
    return problem.format(**context), fix.format(**context)


def _describe_unknown_key(error: ErrorDetails) -> tuple[str, str]:
    *section, key = error["loc"]
    known = _known_keys(tuple(section))
    suggestion = closest_match(str(key), known)
    if suggestion is not None:
        return f"is not a setting; did you mean {suggestion}?", f"write {suggestion}, or remove it"
    return "is not a setting", f"remove it; the settings here are {', '.join(known)}"


def closest_match(word: str, words: list[str]) -> str | None:
    """The most similar of these words, or None."""
    return next(iter(get_close_matches(word, words, n=1, cutoff=0.6)), None)


def _known_keys(section: KeyPath) -> list[str]:
    """The keys that the section at this path may have."""
    model: type[BaseModel] | None = Config
    inside_collection = False
    for part in section:
        if inside_collection:
            inside_collection = False
            continue
        if model is None or part not in model.model_fields:
            return []
        annotation = model.model_fields[str(part)].annotation
        model = section_model(annotation)
        inside_collection = get_origin(annotation) in (dict, tuple)
    return [] if model is None else list(model.model_fields)
