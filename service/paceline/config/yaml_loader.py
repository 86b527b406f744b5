"""Load the YAML file, safe and strict, as plain mappings, lists and scalars.

Stricter than YAML: one document, a mapping at the top, every key a string and written once. Dates stay text, so that
`x-api-version: 2022-11-28` is what it looks like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from paceline.config.key_path import KeyPath, format_path
from paceline.errors import ConfigError

_STRING_TAG = "tag:yaml.org,2002:str"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_TIMESTAMP_TAG = "tag:yaml.org,2002:timestamp"

_QUOTED_VALUE = re.compile(r" (?:'[^<].*'|\"[^<].*\")")
_KeyProblem = tuple[KeyPath, int, str, str]


class _StrictLoader(yaml.SafeLoader):
    """The safe loader without dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the library's own class attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP_TAG]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping that the file holds.

    Raises:
        ConfigError: it cannot be read, is not YAML, or is not such a mapping.
    """
    file = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ConfigError(file, "", reason, "name a file that exists and can be read") from None
    except UnicodeDecodeError:
        raise ConfigError(file, "", "is not UTF-8 text", "save it as UTF-8") from None
    try:
        return _parse_yaml(file, text)
    except yaml.MarkedYAMLError as error:
        # Not str(error): it quotes the line, and the line may hold a secret; so may what the problem quotes.
        mark = error.problem_mark
        line = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        what = _QUOTED_VALUE.sub("", error.problem or error.context or "")
        problem = f"{line}not valid YAML: {what}"
        raise ConfigError(file, "", problem, "check indentation, colons and quotes there") from None
    except yaml.YAMLError:
        raise ConfigError(file, "", "holds characters YAML does not allow", "remove control characters") from None
    except ValueError:
        raise ConfigError(file, "", "holds a number that cannot be read", "put it in quotes") from None
    except RecursionError:
        raise ConfigError(file, "", "is nested too deeply", "write it flatter") from None


def _parse_yaml(file: str, text: str) -> dict[str, Any]:
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(file, "", "is empty", "write at least one section, or {} for the defaults")
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(file, "", "is not a mapping", "write sections such as server: and upstreams:")
        problems = [
            ConfigError(file, format_path(path), f"line {line}: {problem}", fix)
            for path, line, problem, fix in _iter_key_problems(node, (), {})
        ]
        if problems:
            raise combine_errors(problems)
        document: dict[str, Any] = loader.construct_document(node)
        return document
    finally:
        loader.dispose()


def _iter_key_problems(node: yaml.Node, path: KeyPath, finished: dict[int, bool]) -> Iterator[_KeyProblem]:
    """Keys that are written twice, are no strings, or (by an alias) hold the very section they are in.

    `finished` says of each visited node whether its walk is over, so that an alias is walked once and a cycle is found.
    """
    if id(node) in finished:
        if not finished[id(node)]:
            yield path, node.start_mark.line + 1, "holds itself", "write out what the alias stands for"
        return
    finished[id(node)] = False
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _iter_key_problems(child, (*path, index), finished)
    elif isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for key, child in node.value:
            line = key.start_mark.line + 1
            if key.tag != _MERGE_TAG and key.tag != _STRING_TAG:
                yield path, line, "a key here is not text", "put the key in quotes"
                continue
            if key.tag == _STRING_TAG and key.value in names:
                yield (*path, key.value), line, "is written twice", "keep one of them"
            names.add(key.value)
            yield from _iter_key_problems(child, (*path, key.value), finished)
    finished[id(node)] = True


def combine_errors(problems: list[ConfigError]) -> ConfigError:
    """Combine them into one error."""
    first, *others = problems
    return ConfigError(first.file, first.key, first.problem, first.fix, others)
