"""What pydantic found, in an operator's words: the problem and its fix. No word of it repeats a value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paceline.config.key_path import closest_match, known_keys

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
    known = known_keys(tuple(section))
    suggestion = closest_match(str(key), known)
    if suggestion is not None:
        return f"is not a setting; did you mean {suggestion}?", f"write {suggestion}, or remove it"
    return "is not a setting", f"remove it; the settings here are {', '.join(known)}"
