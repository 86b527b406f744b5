"""A request's body: read up to the limit, checked for its type, decoded once."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.types import Receive

from paceline.api.errors import BadRequest, CallerGone, Invalid, TooLarge, UnsupportedType
from paceline.units import write_size

_JSON = re.compile(rb"application/(?:[\w.!#$&^-]+\+)?json", re.IGNORECASE)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)` - at `\$\.?(.*)`", re.DOTALL)
_UNKNOWN_AT_TOP = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*?)`(?: - at `\$\.?(.*)`)?")
_WRONG = re.compile(r"(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?", re.DOTALL)
_WORDS = {"object": "an object", "array": "a list", "str": "text", "int": "a whole number", "float": "a number"}

T = TypeVar("T")


async def read_json(request: Request, decoder: msgspec.json.Decoder[T], most: int) -> T:
    """The decoded body.

    Raises:
        UnsupportedType, TooLarge, BadRequest, Invalid: it cannot be used, and why.
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
    if length.isdigit() and int(length) > most:
        raise _too_large(most)
    return decode(await _read(request.receive, most), decoder)


async def _read(receive: Receive, most: int) -> bytes:
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
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"the body is larger than {write_size(most)}; send smaller batches, or raise server.max_body")


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as values.

    Raises:
        BadRequest: it is not JSON.
        Invalid: it is JSON of another shape; names the field.
    """
    try:
        if not body.isascii():
            body.decode()  # bodies that are passed on as they are must be UTF-8 too
        return decoder.decode(body)
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8; JSON always is") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply to be read") from None
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except msgspec.DecodeError as error:
        raise BadRequest(
            f"the body is not JSON that can be read: {str(error).removeprefix('JSON is malformed: ')}"
        ) from None


def _invalid(message: str) -> Invalid:
    """The decoder's words as ours, and the field they are about."""
    if (found := _UNKNOWN.fullmatch(message)) or (found := _UNKNOWN_AT_TOP.fullmatch(message)):
        name, at = found[1], found[2] if found.re is _UNKNOWN else ""
        field = f"{at}.{name}" if at else name
        return Invalid(f"{field[:200]} is not a field here; remove it or correct its name", field=field[:200])
    if found := _MISSING.fullmatch(message):
        field = f"{found[2]}.{found[1]}" if found[2] else found[1]
        return Invalid(f"{field} is required; add it", field=field)
    found = _WRONG.fullmatch(message)
    assert found is not None
    field = (found[2] or "").replace("[...]", "")
    what = re.sub(r"`([^`]*)`", lambda each: _readable(each[1]), found[1])
    return Invalid(f"{field or 'the body'}: {what[:1].lower()}{what[1:]}", field=field or UNSET)


def _readable(types: str) -> str:
    return " or ".join(_WORDS.get(each, each) for each in types.split(" | "))
