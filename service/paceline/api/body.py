"""A request's body: checked for its type, read up to the limit as far as there is room for it, decoded once."""

from __future__ import annotations

import codecs
import re
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.types import Receive

from paceline.api.errors import BadRequest, CallerGone, TooLarge, UnsupportedType
from paceline.api.intake import HEAVIEST, Place
from paceline.api.mistakes import mistake
from paceline.units import write_size

LARGE = 32 * 1024
"""A larger body is looked at part by part, and what goes into the head of a request may not be larger."""

_JSON = re.compile(rb"application/(?:[\w.!#$&^-]+\+)?json", re.IGNORECASE)

_PIECE = 256 * 1024
T = TypeVar("T")


async def read_json(request: Request, decoder: msgspec.json.Decoder[T], most: int, place: Place | None = None) -> T:
    """The decoded body; for one that is small.

    Raises:
        UnsupportedType, TooLarge, BadRequest, Invalid: it cannot be used, and why.
        OverShare, Unavailable: there is no room for it.
        CallerGone: the caller hung up while sending it.
    """
    body = await read(request, most, place)
    if place is not None:
        place.hold_body(HEAVIEST * len(body))
    return decode(body, decoder)


async def read(request: Request, most: int, place: Place | None) -> bytes:
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
    if _JSON.fullmatch(content_type.partition(b";")[0].strip()) is None:
        raise UnsupportedType("the body must be JSON; send it with content-type: application/json")
    told = int(length) if length.isdigit() else 0
    if told > most:
        raise _too_large(most)
    if place is not None and told:
        place.hold_body(told)
    return await _read(request.receive, most, place, told)


async def _read(receive: Receive, most: int, place: Place | None, held: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGone("the caller hung up while sending the body")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise _too_large(most)
        if size > held and place is not None:
            place.hold_body(size)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"the body is larger than the {write_size(most)} taken here; send less at a time")


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as values.

    Raises:
        BadRequest: it is not JSON.
        Invalid: it is JSON of another shape; names the field.
    """
    check_text(body)
    return decode_part(body, decoder)


def check_text(body: bytes) -> None:
    """Let only UTF-8 through: what is passed on as it is must be that too.

    Raises:
        BadRequest: it is not.
    """
    if body.isascii():
        return
    whole = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), _PIECE):  # as text it may be four times as large
            whole.decode(body[start : start + _PIECE])
        whole.decode(b"", final=True)
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8; JSON always is") from None


def decode_part(part: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T], within: str = "") -> T:
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
        raise mistake(str(error), part, decoder.type, within) from None
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ").replace("Input data was truncated", "it ends too early")
        raise BadRequest(f"the body is not JSON that can be read: {reason}") from None
