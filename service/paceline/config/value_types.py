"""The types of a configuration's values. A validator's `ValueError` reads `problem; fix`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    WithJsonSchema,
)

from paceline.header_values import ENGINE_HEADER_PREFIX, ENGINE_HEADERS, match_token
from paceline.units import DURATION_PATTERN, SIZE_PATTERN, parse_duration, parse_size

_FIELD_VALUE = re.compile(r"[\x20-\x7e\x80-\xff]*")
_UPSTREAM_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_REFERENCE_PATTERN = r"|.*\$\{.*"


def _reject_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number; write a number")
    return value


def _require_positive_duration(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("must be longer than zero; write a positive duration")
    return seconds


def _require_positive_size(size: int) -> int:
    if size <= 0:
        raise ValueError("must be larger than zero; write a positive size")
    return size


_DURATION_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "pattern": f"^({DURATION_PATTERN}{_REFERENCE_PATTERN})$"},
            {"type": "number", "minimum": 0},
        ]
    }
)
_SIZE_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "pattern": f"^({SIZE_PATTERN}{_REFERENCE_PATTERN})$"},
            {"type": "integer", "minimum": 0},
        ]
    }
)

Seconds = Annotated[float, BeforeValidator(parse_duration), _DURATION_SCHEMA]
PositiveSeconds = Annotated[
    float, BeforeValidator(parse_duration), AfterValidator(_require_positive_duration), _DURATION_SCHEMA
]
PositiveSize = Annotated[int, BeforeValidator(parse_size), AfterValidator(_require_positive_size), _SIZE_SCHEMA]
NonNegativeInt = Annotated[int, Field(ge=0), BeforeValidator(_reject_bool)]
PositiveInt = Annotated[int, Field(gt=0), BeforeValidator(_reject_bool)]


def _check_partition_rule(rule: str) -> str:
    kind, _, detail = rule.partition(":")
    if rule in ("upstream", "host") or (kind == "path" and re.fullmatch(r"[1-9]", detail)):
        return rule
    if kind == "header" and match_token(detail):
        return rule.lower()
    raise ValueError('is no partition; write upstream, host, "header:authorization" or "path:1"')


# The names that `rate/dialects` has; a test compares the two, as this layer may not import it.
DialectName = Literal[
    "auto",
    "ietf",
    "draft07",
    "interim2023",
    "draft06",
    "cloudflare",
    "anthropic",
    "shopify",
    "hubspot",
    "groq",
    "azure",
    "openai",
    "discord",
    "github",
    "jira",
    "reddit",
    "stripe",
    "x",
    "prisjakt",
    "slack",
    "graph",
    "generic",
    "rfc9110",
]

PartitionRule = Annotated[str, AfterValidator(_check_partition_rule)]
Ratio = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), BeforeValidator(_reject_bool)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_reject_bool)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_reject_bool)]
Port = Annotated[int, Field(ge=1, le=65535), BeforeValidator(_reject_bool)]
ErrorStatus = Annotated[int, Field(ge=400, le=599), BeforeValidator(_reject_bool)]


def check_header_name(name: str) -> str:
    """A header's name in lower case, where it may be configured."""
    lower = name.lower()
    if not match_token(name):
        raise ValueError("is not a header name; use letters, digits and hyphens")
    if lower in ENGINE_HEADERS or lower.startswith(ENGINE_HEADER_PREFIX):
        raise ValueError(f"{lower} is set by the engine and cannot be configured; remove it")
    return lower


def check_header_value(value: SecretStr) -> SecretStr:
    """A header's value, never shown."""
    text = value.get_secret_value()
    if not _FIELD_VALUE.fullmatch(text) or text != text.strip():
        raise ValueError("is not a header value; remove line breaks, control characters and outer spaces")
    return value


def check_secret_token(value: SecretStr) -> SecretStr:
    """A credential of one word, never shown."""
    text = value.get_secret_value()
    if not text or not all("\x21" <= char <= "\x7e" for char in text):
        raise ValueError("must be one word of visible ASCII; remove spaces and line breaks")
    return value


def check_upstream_name(name: str) -> str:
    """An upstream's name: part of URLs, metrics and logs."""
    if not _UPSTREAM_NAME.fullmatch(name):
        raise ValueError("is not an upstream name; use a-z, 0-9, - and _, a letter or digit first")
    if name == "other":
        raise ValueError("'other' is the metrics label of undeclared hosts; choose another name")
    return name


HeaderName = Annotated[str, AfterValidator(check_header_name)]
HeaderValue = Annotated[SecretStr, AfterValidator(check_header_value)]
SecretToken = Annotated[SecretStr, AfterValidator(check_secret_token)]
UpstreamName = Annotated[str, AfterValidator(check_upstream_name)]
