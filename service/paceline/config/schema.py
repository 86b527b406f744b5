"""What the models say about themselves: a JSON schema for editors, and the table of settings for the docs."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from paceline.config.root import Config
from paceline.config.section import section_model
from paceline.units import format_duration, format_size, parse_duration, parse_size

_FORMATTERS: dict[Any, Any] = {parse_duration: format_duration, parse_size: format_size}


def json_schema() -> dict[str, Any]:
    """The JSON schema of a configuration file."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": "Paceline"}


def settings_table() -> str:
    """A Markdown table of every setting: key, default, meaning."""
    rows = [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in iter_settings()]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows]) + "\n"


def iter_settings(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of every setting below a section.

    `defaults` is left out: it has the keys of an upstream.
    """
    for name, field in section.model_fields.items():
        if section is Config and name == "defaults":
            continue
        key, subsection = prefix + name, section_model(field.annotation)
        if subsection is None:
            yield key, _format_default(field), " ".join((field.description or "").split())
        else:
            collection = get_origin(field.annotation)
            key_suffix = "[]" if collection is tuple else ".<name>" if collection is dict else ""
            yield from iter_settings(subsection, f"{key}{key_suffix}.")


def _format_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    for marker in field.metadata:
        if isinstance(marker, BeforeValidator) and marker.func in _FORMATTERS:
            value = _FORMATTERS[marker.func](value)
    if value is None or (not isinstance(value, str | int | float) and not value):
        return ""
    return f"`{_format_value(value)}`"


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    return str(list(value) if isinstance(value, tuple) else value)
