"""Read the body of a request: check its type, read up to the limit and as far as there is room, decode it once."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.types import Receive

from paceline.api.dependencies import ReservationDep, service_of
from paceline.api.errors import ClientDisconnected, TooLarge, UnsupportedMediaType
from paceline.api.load_shedding import DECODED_BYTE_WEIGHT, Reservation
from paceline.batch.json_decoding import decode_json
from paceline.units import format_size

LARGE_REQUEST_BYTES = 32 * 1024
"""Bytes. A larger body is checked part by part, and what goes into the head of a request may not be larger."""

_JSON_CONTENT_TYPE = re.compile(rb"application/(?:[\w.!#$&^-]+\+)?json", re.IGNORECASE)
T = TypeVar("T")


def json_body(model: type[T], max_bytes: int) -> Callable[..., Awaitable[T]]:
    """Make the dependency that reads a small body and reserves room for it, up to `server.max_body`.

    It raises:
        UnsupportedMediaType, TooLarge, InputError: the body is refused, or is not a valid one.
        OverShare, Unavailable: there is no room for it.
        ClientDisconnected: the caller disconnected while sending it.
    """
    decoder = msgspec.json.Decoder(model)

    async def read_reserved_body(request: Request, reservation: ReservationDep) -> T:
        limit = min(service_of(request).config.server.max_body, max_bytes)
        body = await read_body(request, limit, reservation)
        reservation.reserve_body(DECODED_BYTE_WEIGHT * len(body))
        return decode_json(body, decoder)

    return read_reserved_body


def unreserved_json_body(model: type[T], max_bytes: int) -> Callable[..., Awaitable[T]]:
    """Make the dependency that reads a small body for which no room is reserved: operators must get through."""
    decoder = msgspec.json.Decoder(model)

    async def read_unreserved_body(request: Request) -> T:
        limit = min(service_of(request).config.server.max_body, max_bytes)
        return decode_json(await read_body(request, limit, None), decoder)

    return read_unreserved_body


async def read_body(request: Request, max_bytes: int, reservation: Reservation | None) -> bytes:
    """The body as it was sent; `reservation` holds its size, from before it is read if the head declares it.

    Raises:
        UnsupportedMediaType, TooLarge: it is refused.
        OverShare, Unavailable: there is no room for it.
        ClientDisconnected: the caller disconnected while sending it.
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
