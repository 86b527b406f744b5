"""What every section of a configuration is: a closed, frozen model."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict


class ConfigSection(BaseModel):
    """A part of the configuration: unknown keys are errors, it is frozen, and its errors show no value."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


def section_model(annotation: Any) -> type[BaseModel] | None:
    """The section model in a field's type, wrapped in anything, or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := section_model(argument)) is not None), None)
