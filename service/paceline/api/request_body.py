"""A request's body: checked for its type, read up to the limit as far as there is room for it, decoded once."""

from __future__ import annotations

import codecs
import re
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.types import Receive

from paceline.api.decode_errors import explain_decode_error
from paceline.api.errors import BadRequest, ClientDisconnected, TooLarge, UnsupportedMediaType
from paceline.api.load_shedding import DECODED_BYTE_WEIGHT, Reservation
from paceline.units import format_size

LARGE_REQUEST_BYTES = 32 * 1024
"""A larger body is looked at part by part, and what goes into the head of a request may not be larger."""

_JSON_CONTENT_TYPE = re.compile(rb"application/(?:[\w.!#$&^-]+\+)?json", re.IGNORECASE)

_DECODE_CHUNK_BYTES = 256 * 1024
T = TypeVar("T")


async def read_json(
    request: Request, decoder: msgspec.json.Decoder[T], max_bytes: int, reservation: Reservation | None = None
) -> T:
    """The decoded body; for one that is small.

    Raises:
        UnsupportedType, TooLarge, BadRequest, Invalid: it cannot be used, and why.
        OverShare, Unavailable: there is no room for it.
        CallerGone: the caller hung up while sending it.
    """
    body = await read_body(request, max_bytes, reservation)
    if reservation is not None:
        reservation.reserve_body(DECODED_BYTE_WEIGHT * len(body))
    return decode_body(body, decoder)


async def read_body(request: Request, max_bytes: int, reservation: Reservation | None) -> bytes:
    """The body as it was sent; `place` holds its size, from before it is read where its length is told.

    Raises:
        UnsupportedType, TooLarge: it is not taken.
        OverShare, Unavailable: there is no room for it.
        CallerGone: the caller hung up while sending it.
    """
    content_type = length = b""
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"content-length":
            length = value
    if _JSON_CONTENT_TYPE.fullmatch(content_type.partition(b";")[0].strip()) is None:
        raise UnsupportedMediaType("the body must be JSON; send it with content-type: application/json")
    declared_bytes = int(length) if length.isdigit() else 0
    if declared_bytes > max_bytes:
        raise _too_large(max_bytes)
    if reservation is not None and declared_bytes:
        reservation.reserve_body(declared_bytes)
    return await _receive_body(request.receive, max_bytes, reservation, declared_bytes)


async def _receive_body(
    receive: Receive, max_bytes: int, reservation: Reservation | None, reserved_bytes: int
) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected("the caller hung up while sending the body")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        if size > reserved_bytes and reservation is not None:
            reservation.reserve_body(size)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than the {format_size(max_bytes)} taken here; send less at a time")


def decode_body(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as values.

    Raises:
        BadRequest: it is not JSON.
        Invalid: it is JSON of another shape; names the field.
    """
    check_utf8(body)
    return decode_part(body, decoder)


def check_utf8(body: bytes) -> None:
    """Let only UTF-8 through: what is passed on as it is must be that too.

    Raises:
        BadRequest: it is not.
    """
    if body.isascii():
        return
    utf8_decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), _DECODE_CHUNK_BYTES):  # as text it may be four times as large
            utf8_decoder.decode(body[start : start + _DECODE_CHUNK_BYTES])
        utf8_decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8; JSON always is") from None


def decode_part(part: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T], path: str = "") -> T:
    """The values of a body, or of the part of one that is found at `within`.

    Raises:
        BadRequest: it is not JSON.
        Invalid: it is JSON of another shape; names the field.
    """
    try:
        return decoder.decode(part)
    except RecursionError:
        raise BadRequest("the body is nested too deeply to be read") from None
    except msgspec.ValidationError as error:
        raise explain_decode_error(str(error), part, decoder.type, path) from None
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ").replace("Input data was truncated", "it ends too early")
        raise BadRequest(f"the body is not JSON that can be read: {reason}") from None
