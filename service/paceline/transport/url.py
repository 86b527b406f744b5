"""Parse a URL into a `Url`, or reject it with what is wrong and what to write instead.

Common URLs match one strict pattern and cost a microsecond; the others take a slower path. Both give the same result
for a URL that both accept (a property test checks it). Nothing is guessed: a host that some parser would read as
another address (`127.1`, `0x7f000001`, `a@b`, `a\\b`) is rejected, not normalised.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NoReturn

import idna

from paceline.errors import InvalidRequest
from paceline.model import Url

_OCTET = r"(?:[1-9]?[0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5])"
# The last label starts with a letter, so no reading of the name is a number.
_COMMON_URL = re.compile(
    rf"(https?)://((?:[a-z0-9_-]{{1,63}}\.)*[a-z][a-z0-9_-]{{0,62}}|{_OCTET}(?:\.{_OCTET}){{3}})(?::([1-9][0-9]{{0,4}}))?"
    r"(/[!$%&'()*+,./0-9:;=@A-Z_a-z~?\[\]-]*)?"
).fullmatch
_ANY_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.DOTALL).fullmatch
_CONTROL = re.compile(r"[\x00-\x1f\x7f]").search
_HOST = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}").fullmatch
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*").fullmatch
_ENCODE = re.compile(r"[^!$%&'()*+,./0-9:;=@A-Z_a-z~?\[\]-]").sub
_SEPARATOR = re.compile(r"(/|\\|%2f|%5c)", re.IGNORECASE).split
_DOT = re.compile(r"%2e", re.IGNORECASE).sub
_DEFAULT_PORT = {"http": 80, "https": 443}
_MAX_HOST = 253


def parse_url(text: str) -> Url:
    """Parse an absolute http(s) URL; its fragment is dropped, its host is lower case and ASCII.

    Raises:
        InvalidRequest: what is wrong, and what to write instead.
    """
    match = _COMMON_URL(text)
    if match is None:
        return _parse_uncommon_url(text)
    scheme, host, port, target = match.groups()
    number = _DEFAULT_PORT[scheme] if port is None else int(port)
    if number > 65535 or len(host) > _MAX_HOST:
        return _parse_uncommon_url(text)
    return Url(scheme, host, number, target or "/")


def remove_dot_segments(path: str) -> str:
    """The path without `.` and `..` segments (RFC 3986 section 5.2.4); never climbs above the root.

    `%2e` counts as a dot, and `\\`, `%2f` and `%5c` as separators, as for servers that decode before they resolve a
    path.
    """
    if "." not in path and "%2" not in path:
        return path
    parts = _SEPARATOR(path)
    segments: list[tuple[str, str]] = []  # (the separator before it, segment)
    removed_separator: str | None = None  # the separator before a removed segment, for the next one
    for index in range(0, len(parts), 2):
        segment = parts[index]
        separator = removed_separator if removed_separator is not None else parts[index - 1] if index else ""
        plain = _DOT(".", segment)
        if plain not in (".", ".."):
            segments.append((separator, segment))
            removed_separator = None
        elif plain == ".." and len(segments) > 1:
            removed_separator = segments.pop()[0]
        else:
            removed_separator = separator
    if removed_separator is not None:
        segments.append((removed_separator, ""))
    joined = "".join(separator + segment for separator, segment in segments)
    return "/" + joined.lstrip("/\\") if path.startswith("/") and not joined.startswith("/") else joined


def _parse_uncommon_url(text: str) -> Url:
    if _CONTROL(text):
        _reject_url(text, "it has a control character in it", "remove it, or percent-encode it")
    if "\\" in text:
        _reject_url(text, "it has a backslash in it", "write / between path segments, or %5C for the character")
    if text != text.strip():
        _reject_url(text, "it starts or ends with a space", "remove the space")
    match = _ANY_URL(text)
    if match is None:
        _reject_url(text, "it is not an absolute URL", "write it whole, like https://host/path")
    scheme, authority, path, query = match[1].lower(), match[2], match[3], match[4] or ""
    if scheme not in _DEFAULT_PORT:
        _reject_url(text, f"its scheme is {scheme}", "only http and https are fetched")
    if "@" in authority:
        _reject_url("", "it has a user name or password in it", "send credentials as an Authorization header")
    host, port = _split_port(text, authority)
    number = _DEFAULT_PORT[scheme] if port is None else _parse_port(text, port)
    host = _parse_ipv6(text, host) if host.startswith("[") else _parse_host(text, host)
    target = _ENCODE(_percent_encode, (path or "/") + query)
    return Url(scheme, host, number, target)


def _split_port(text: str, authority: str) -> tuple[str, str | None]:
    if authority.startswith("["):
        end = authority.find("]")
        if end < 0:
            _reject_url(text, "its IPv6 address has no closing bracket", "write it like http://[2001:db8::1]/")
        host, rest = authority[: end + 1], authority[end + 1 :]
        if rest and not rest.startswith(":"):
            _reject_url(text, f"{rest!r} follows its IPv6 address", "write a port as [address]:port")
        return host, rest[1:] if rest else None
    host, colon, port = authority.partition(":")
    if ":" in port:
        _reject_url(text, "its host has colons in it", "put an IPv6 address in brackets: http://[2001:db8::1]/")
    return host, port if colon else None


def _parse_port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdigit()) or len(port) > 5 or not 0 < int(port) < 65536:
        _reject_url(
            text, f"its port is {port!r}", "a port is a number from 1 to 65535; without one, leave out the colon"
        )
    return int(port)


def _parse_ipv6(text: str, host: str) -> str:
    inner = host[1:-1]
    if "%" in inner:
        _reject_url(text, "its IPv6 address has a zone", "zones name an interface of one machine; leave it out")
    try:
        return str(IPv6Address(inner))
    except AddressValueError:
        _reject_url(text, f"{inner!r} is no IPv6 address", "only IPv6 addresses go in brackets")


def _parse_host(text: str, host: str) -> str:
    if not host:
        _reject_url(text, "its host is empty", "write it whole, like https://host/path")
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            _reject_url(text, f"its host is not a valid international name ({error})", "check the spelling of the host")
    host = host.lower().removesuffix(".")
    if len(host) > _MAX_HOST or not _HOST(host):
        _reject_url(text, f"{host!r} is no host name", "a name has letters, digits, - and _ in labels joined by dots")
    if _NUMBER(host.rpartition(".")[2]):
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            _reject_url(text, f"{host!r} is a number but not a plain IPv4 address", "write all four parts in decimal")
    return host


def _percent_encode(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def _reject_url(text: str, problem: str, fix: str) -> NoReturn:
    shown = f" {text[:200]!r}" if text and "@" not in text else ""  # what may hold a password is not repeated
    raise InvalidRequest(f"the URL{shown} cannot be used: {problem}; {fix}")
