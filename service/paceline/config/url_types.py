"""Hosts and URLs as a configuration writes them. A validator's `ValueError` reads `problem; fix`."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, SecretStr

_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)


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
    """An absolute http(s) URL to which paths can be appended."""
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
    """Whether the text of a URL's host shows that it is not public."""
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
BaseUrl = Annotated[str, AfterValidator(check_base_url)]
ProxyUrl = Annotated[SecretStr, AfterValidator(check_proxy_url)]
