"""Reads the file: YAML, safe and strict, as plain mappings, lists and scalars.

Stricter than YAML: one document, a mapping at the top, every key a string and written once. Dates stay text, so that
`x-api-version: 2022-11-28` is what it looks like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from paceline.config.keys import KeyPath, write_path
from paceline.errors import ConfigError

_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_DATE = "tag:yaml.org,2002:timestamp"

_QUOTED = re.compile(r" (?:'[^<].*'|\"[^<].*\")")
_BadKey = tuple[KeyPath, int, str, str]


class _Loader(yaml.SafeLoader):
    """The safe loader without dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the library's own class attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_document(path: Path) -> dict[str, Any]:
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
        return _parse(file, text)
    except yaml.MarkedYAMLError as error:
        # Not str(error): it quotes the line, and the line may hold a secret; so may what the problem quotes.
        mark = error.problem_mark
        line = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        what = _QUOTED.sub("", error.problem or error.context or "")
        problem = f"{line}not valid YAML: {what}"
        raise ConfigError(file, "", problem, "check indentation, colons and quotes there") from None
    except yaml.YAMLError:
        raise ConfigError(file, "", "holds characters YAML does not allow", "remove control characters") from None
    except ValueError:
        raise ConfigError(file, "", "holds a number that cannot be read", "put it in quotes") from None
    except RecursionError:
        raise ConfigError(file, "", "is nested too deeply", "write it flatter") from None


def _parse(file: str, text: str) -> dict[str, Any]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(file, "", "is empty", "write at least one section, or {} for the defaults")
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(file, "", "is not a mapping", "write sections such as server: and upstreams:")
        problems = [
            ConfigError(file, write_path(path), f"line {line}: {problem}", fix)
            for path, line, problem, fix in _bad_keys(node, (), {})
        ]
        if problems:
            raise together(problems)
        document: dict[str, Any] = loader.construct_document(node)
        return document
    finally:
        loader.dispose()


def _bad_keys(node: yaml.Node, path: KeyPath, closed: dict[int, bool]) -> Iterator[_BadKey]:
    """Keys that are written twice, are no strings, or (by an alias) hold the very section they are in.

    `closed` says of each node met whether its walk is over, so that an alias is walked once and a circle is seen.
    """
    if id(node) in closed:
        if not closed[id(node)]:
            yield path, node.start_mark.line + 1, "holds itself", "write out what the alias stands for"
        return
    closed[id(node)] = False
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _bad_keys(child, (*path, index), closed)
    elif isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for key, child in node.value:
            line = key.start_mark.line + 1
            if key.tag != _MERGE and key.tag != _TEXT:
                yield path, line, "a key here is not text", "put the key in quotes"
                continue
            if key.tag == _TEXT and key.value in names:
                yield (*path, key.value), line, "is written twice", "keep one of them"
            names.add(key.value)
            yield from _bad_keys(child, (*path, key.value), closed)
    closed[id(node)] = True


def together(problems: list[ConfigError]) -> ConfigError:
    """All of them as one error."""
    first, *others = problems
    return ConfigError(first.file, first.key, first.problem, first.fix, others)
