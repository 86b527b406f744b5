"""Where in a configuration something is: paths of keys, and what may stand at one."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from paceline.config.root import Config

KeyPath = tuple[str | int, ...]


def format_path(path: KeyPath) -> str:
    """A path as people write it: `upstreams.github.rate[0].per`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def get_at_path(document: Any, path: KeyPath) -> Any:
    """What stands at a path, or None."""
    for part in path:
        if isinstance(document, dict):
            document = document.get(part)
        elif isinstance(document, list) and isinstance(part, int) and part < len(document):
            document = document[part]
        else:
            return None
    return document


def iter_strings(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Every string value in it, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from iter_strings(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from iter_strings(child, (*path, index))


def known_keys(section: KeyPath) -> list[str]:
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


def section_model(annotation: Any) -> type[BaseModel] | None:
    """The section that a field's type holds, however it is wrapped."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := section_model(argument)) is not None), None)


def closest_match(word: str, words: list[str]) -> str | None:
    """The word that was probably meant."""
    return next(iter(get_close_matches(word, words, n=1, cutoff=0.6)), None)
