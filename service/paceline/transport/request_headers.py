"""The header fields of a request as an engine sends them: the caller's, checked, and the few of Paceline's own."""

from __future__ import annotations

from typing import NoReturn

from paceline import __version__
from paceline.errors import InvalidRequest
from paceline.header_values import find_control_character, match_token
from paceline.model import Headers, Request
from paceline.transport.base import forwardable_headers
from paceline.transport.content_decoding import ACCEPT_ENCODING

USER_AGENT = f"paceline/{__version__}"
_COMMON_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


def check_method(method: str) -> None:
    """Raise InvalidRequest for anything but a method, and for CONNECT (a tunnel is no request)."""
    if method in _COMMON_METHODS:
        return
    if method.upper() == "CONNECT":
        raise InvalidRequest("method CONNECT is refused: it opens a tunnel; use GET, POST or another method")
    if not match_token(method):
        raise InvalidRequest(f"{method[:80]!r} is no HTTP method; use GET, POST or another token")


def needs_content_length(request: Request) -> bool:
    """Whether to send Content-Length: with a body, and with methods that usually have one."""
    return bool(request.body) or request.method in _METHODS_WITH_BODY


def build_header_fields(headers: Headers) -> list[tuple[str, bytes]]:
    """The caller's fields that may be forwarded, and Paceline's own where the caller gives none.

    Raises:
        InvalidRequest: a name that is no token, or a value with CR, LF, NUL or another control character in it.
    """
    fields: list[tuple[str, bytes]] = []
    has_user_agent = False
    for name, value in forwardable_headers(headers):
        if not match_token(name):
            _reject_header(name, "is no header name", "names are letters, digits and - only")
        if find_control_character(value):
            _reject_header(name, "has a control character in its value", "remove line breaks and NUL from it")
        has_user_agent = has_user_agent or name.lower() == "user-agent"
        fields.append((name, _encode_value(value)))
    fields.append(("Accept-Encoding", ACCEPT_ENCODING.encode()))
    if not has_user_agent:
        fields.append(("User-Agent", USER_AGENT.encode()))
    return fields


def _encode_value(value: str) -> bytes:
    """Latin-1, as responses are decoded, so that values pass unchanged; UTF-8 where Latin-1 cannot encode it."""
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape")


def _reject_header(name: str, problem: str, fix: str) -> NoReturn:
    raise InvalidRequest(f"header {name[:80]!r} {problem}; {fix}")
