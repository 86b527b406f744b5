"""The kinds of value a configuration is made of. A validator's `ValueError` reads `problem; fix`."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    WithJsonSchema,
)

from paceline.units import DURATION_PATTERN, SIZE_PATTERN, parse_duration, parse_size

# What no configured header may be: they belong to one hop, the framing or the engine, which would drop them.
ENGINE_HEADERS = frozenset(
    (
        "host",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "keep-alive",
        "transfer-encoding",
        "content-length",
        "expect",
        "accept-encoding",
    )
)

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\x20-\x7e\x80-\xff]*")
_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_UPSTREAM_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
_REFERENCE_PATTERN = r"|.*\$\{.*"


class ConfigSection(BaseModel):
    """A part of the configuration: closed, frozen, and mute about its values when refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


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
    if kind == "header" and _TOKEN.fullmatch(detail):
        return rule.lower()
    raise ValueError('is no partition; write upstream, host, "header:authorization" or "path:1"')


# The words `rate/dialects` knows; a test holds the two together, as this layer may not import it.
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
    """A header's name in lower case, if an upstream's headers may have it."""
    lower = name.lower()
    if not _TOKEN.fullmatch(name):
        raise ValueError("is not a header name; use letters, digits and hyphens")
    if lower in ENGINE_HEADERS or lower.startswith("proxy-"):
        raise ValueError(f"{lower} is set by the engine and cannot be configured; remove it")
    return lower


def check_header_value(value: SecretStr) -> SecretStr:
    """A header's value, never shown."""
    text = value.get_secret_value()
    if not _FIELD_VALUE.fullmatch(text) or text != text.strip():
        raise ValueError("is not a header value; remove line breaks, control characters and outer spaces")
    return value


def check_secret_token(value: SecretStr) -> SecretStr:
    """A credential in one word, never shown."""
    text = value.get_secret_value()
    if not text or not all("\x21" <= char <= "\x7e" for char in text):
        raise ValueError("must be one word of visible ASCII; remove spaces and line breaks")
    return value


def check_upstream_name(name: str) -> str:
    """An upstream's name: it goes into URLs, metrics and logs."""
    if not _UPSTREAM_NAME.fullmatch(name):
        raise ValueError("is not an upstream name; use a-z, 0-9, - and _, a letter or digit first")
    if name == "other":
        raise ValueError("'other' is the metrics label of undeclared hosts; choose another name")
    return name


def check_host_name(name: str) -> str:
    """A host name or address in lower case, without a port."""
    lower = name.lower()
    if _is_address(lower) or _HOST_NAME.fullmatch(lower):
        return lower
    raise ValueError("is not a host name; write it without scheme, port or path, as in api.example.com")


def check_host_or_network(entry: str) -> str:
    """A host name, an address or a range of addresses in CIDR form."""
    if "/" not in entry:
        return check_host_name(entry)
    try:
        return str(ipaddress.ip_network(entry))
    except ValueError:
        raise ValueError("is not a range; write its first address and prefix, as in 10.0.0.0/8") from None


def check_base_url(url: str) -> str:
    """An absolute http(s) URL that paths can be appended to."""
    parts = _split_url(url)
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or password; use auth instead")
    if "?" in url or "#" in url:
        raise ValueError("must not have a query or fragment; keep scheme, host and path only")
    segments = unquote(parts.path).split("/")
    if "." in segments or ".." in segments:
        raise ValueError("must not have dot segments; write the path they lead to")
    return url


def check_proxy_url(value: SecretStr) -> SecretStr:
    """A forward proxy, as `http://user:password@host:port`; never shown, since it may hold a password."""
    parts = _split_url(value.get_secret_value())
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("must be scheme, host and port alone; remove path, query and fragment")
    return value


def is_private_url(url: str) -> bool:
    """True when the very text of a URL's host says that it is not a public one."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return _is_address(host) and not ipaddress.ip_address(host).is_global


def _split_url(url: str) -> Any:
    if any(char <= " " or char in "\\\x7f" for char in url):
        raise ValueError("must not hold spaces, backslashes or control characters; remove them")
    fix = "write it as https://api.example.com"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"has a bad host or port; {fix}") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"must begin with http:// or https://; {fix}")
    host = (parts.hostname or "").rstrip(".")
    if not host or port == 0:
        raise ValueError(f"has a bad host or port; {fix}")
    # 127.1, 0x7f000001 and 2130706433 are addresses to some resolvers and names to others.
    if _NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]) and not _is_address(host):
        raise ValueError("has a numeric host that is no address; write all four numbers, as in 192.0.2.1")
    return parts


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


Host = Annotated[str, AfterValidator(check_host_name)]
HostOrNetwork = Annotated[str, AfterValidator(check_host_or_network)]
HeaderName = Annotated[str, AfterValidator(check_header_name)]
HeaderValue = Annotated[SecretStr, AfterValidator(check_header_value)]
SecretToken = Annotated[SecretStr, AfterValidator(check_secret_token)]
BaseUrl = Annotated[str, AfterValidator(check_base_url)]
ProxyUrl = Annotated[SecretStr, AfterValidator(check_proxy_url)]
UpstreamName = Annotated[str, AfterValidator(check_upstream_name)]
