"""Explain why a request could not be parsed, in a sentence that says what to change."""

from __future__ import annotations

import httptools

from paceline.api.errors import MalformedRequest

_TLS_PREFIX = b"\x16\x03"
_HTTP_2_PREFIX = b"PRI * HTTP/2"
_INVALID_TARGET = (
    "the target of the request line is not a path that can be read; percent-encode spaces and what is not ASCII"
)


def explain_malformed_request(error: BaseException | None, data: bytes) -> MalformedRequest:
    """The rejection of a request that the parser stopped at with `error`; `data` is the piece it was in."""
    return MalformedRequest(f"this is not HTTP/1.1 that can be read: {_reason(error, data)}")


def _reason(error: BaseException | None, data: bytes) -> str:
    if data.startswith(_TLS_PREFIX):
        return "it is TLS, and this port speaks plain HTTP; use http://"
    if data.startswith(_HTTP_2_PREFIX):
        return "it is HTTP/2; use HTTP/1.1"
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return "its method is none that is known (methods are in capitals); use one that the path takes"
    if isinstance(error, httptools.HttpParserInvalidURLError | httptools.HttpParserCallbackError):
        return _INVALID_TARGET  # the callbacks read nothing else
    message = str(error)
    if message.startswith("Expected HTTP/"):
        return _INVALID_TARGET  # a space in it ends it
    return f"{message!r}; correct the request"
