"""Why a request could not be read, in a sentence that says what to change."""

from __future__ import annotations

import httptools

from paceline.api.errors import NotHttp

_TLS = b"\x16\x03"
_HTTP_2 = b"PRI * HTTP/2"
_TARGET = "the target of the request line is not a path that can be read; percent-encode spaces and what is not ASCII"


def not_http(error: BaseException | None, begins: bytes) -> NotHttp:
    """The refusal of a request that the parser gave up with `error`; `begins`: the piece it was in."""
    return NotHttp(f"this is not HTTP/1.1 that can be read: {_reason(error, begins)}")


def _reason(error: BaseException | None, begins: bytes) -> str:
    if begins.startswith(_TLS):
        return "it is TLS, and this port speaks plain HTTP; use http://"
    if begins.startswith(_HTTP_2):
        return "it is HTTP/2; use HTTP/1.1"
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return "its method is none that is known (methods are in capitals); use one that the path takes"
    if isinstance(error, httptools.HttpParserInvalidURLError | httptools.HttpParserCallbackError):
        return _TARGET  # the callbacks read nothing else
    said = str(error)
    if said.startswith("Expected HTTP/"):
        return _TARGET  # a space in it ends it
    return f"{said!r}; correct the request"
