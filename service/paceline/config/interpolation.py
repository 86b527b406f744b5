"""References to values outside the file: `${env:NAME}` and `${file:PATH}` in any string; `$${` is a plain `${`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paceline.config.key_path import KeyPath

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")

Problems = dict[KeyPath, tuple[str, str]]
"""Problem and fix by path. They name the variable or file, never its value."""


class _UnresolvedReference(Exception):
    pass


def interpolate(value: Any, environ: Mapping[str, str], folder: Path, problems: Problems, path: KeyPath = ()) -> Any:
    """Replace every reference in a value; one that cannot be resolved stays, with an entry in `problems`.

    Relative files start at `folder`; a last line break in a file is dropped.
    """
    if isinstance(value, dict):
        return {key: interpolate(child, environ, folder, problems, (*path, key)) for key, child in value.items()}
    if isinstance(value, list):
        return [interpolate(child, environ, folder, problems, (*path, index)) for index, child in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value

    def replace_reference(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        return _resolve_reference(match[1], bool(match[2]), environ, folder)

    try:
        return _REFERENCE.sub(replace_reference, value)
    except _UnresolvedReference as error:
        problem, fix = error.args
        problems[path] = problem, fix
        return value


def _resolve_reference(reference: str, closed: bool, environ: Mapping[str, str], folder: Path) -> str:
    kind, colon, name = reference.partition(":")
    if not closed or not colon or not name or kind not in ("env", "file"):
        raise _UnresolvedReference("has a reference that is neither env nor file", "write ${env:NAME} or ${file:PATH}")
    if kind == "env":
        if not environ.get(name):
            raise _UnresolvedReference(f"environment variable {name} is not set", f"set {name} to a value")
        return environ[name]
    try:
        content = (folder / name).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise _UnresolvedReference(f"file {name}: {reason}", "name a file that exists and can be read") from None
    except ValueError:
        raise _UnresolvedReference(f"file {name} is not UTF-8 text", "name a text file") from None
    if not content:
        raise _UnresolvedReference(f"file {name} is empty", "put the value into it")
    return content
