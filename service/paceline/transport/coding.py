"""A response body as it arrives: decoded, and capped by its decoded bytes.

A coding is opened only so far that one byte too many shows, so a bomb costs `max_response` bytes and no more. One
coding at most; anything stacked, unknown, broken off or followed by other bytes is a `ProtocolError`.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import brotli

from paceline.errors import BodyTooLarge, ProtocolError
from paceline.model import Headers

ACCEPT_ENCODING = "gzip, deflate, br"
_MAX_MEMBERS = 1000


class _Decoder(Protocol):
    def decode(self, chunk: bytes, room: int) -> bytes:
        """What `chunk` opens to, never much more than `room` bytes of it. Raises on what is not its coding."""
        ...

    def whole(self) -> bool:
        """Whether the coding has come to its own end."""
        ...


class Body:
    """Collects one answer's body. `feed` until the wire ends, then `finish`."""

    __slots__ = ("_chunks", "_decoder", "_fed", "_limit", "_size")

    def __init__(self, limit: int, decoder: _Decoder | None = None) -> None:
        self._limit = limit
        self._decoder = decoder
        self._chunks: list[bytes] = []
        self._size = 0
        self._fed = False

    @property
    def decoded(self) -> bool:
        """A coding was taken off, so content-encoding and content-length no longer describe the body."""
        return self._fed and self._decoder is not None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes off the wire.

        Raises:
            BodyTooLarge: decoded, they pass the limit.
            ProtocolError: they are not what content-encoding says.
        """
        if not chunk:
            return
        self._fed = True
        if self._decoder is not None:
            try:
                chunk = self._decoder.decode(chunk, self._limit - self._size + 1)
            except (zlib.error, brotli.error, ValueError) as error:
                raise ProtocolError(f"the body does not decode: {error}", sent=True) from error
        self._size += len(chunk)
        if self._size > self._limit:
            raise too_large(self._limit)
        self._chunks.append(chunk)

    def finish(self) -> bytes:
        """The whole body. Raises ProtocolError where its coding broke off."""
        if self.decoded and self._decoder is not None and not self._decoder.whole():
            raise ProtocolError("the body breaks off before its content-encoding ends", sent=True)
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)


def too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than max_response ({limit} bytes)", sent=True)


def open_body(headers: Headers, limit: int) -> Body:
    """A `Body` for an answer with these lower-case headers.

    Raises:
        ProtocolError: codings are stacked, or it is one we did not ask for.
    """
    named = [value for name, value in headers if name == "content-encoding"]
    codings = [
        low for value in named for each in value.split(",") if (low := each.strip().lower()) not in ("", "identity")
    ]
    if not codings:
        return Body(limit)
    if len(codings) > 1:
        raise ProtocolError(f"content-encoding {', '.join(codings)}: stacked codings are refused", sent=True)
    match codings[0]:
        case "gzip" | "x-gzip":
            return Body(limit, _Gzip())
        case "deflate":
            return Body(limit, _Deflate())
        case "br":
            return Body(limit, _Brotli())
        case other:
            raise ProtocolError(f"content-encoding {other!r} was not asked for", sent=True)


def without_coding(headers: Headers) -> Headers:
    """The headers of a body whose coding was taken off."""
    return tuple(pair for pair in headers if pair[0] not in ("content-encoding", "content-length"))


class _Gzip:
    """One or more members, one after another, as RFC 1952 allows."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(31)
        self._members = 1

    def decode(self, chunk: bytes, room: int) -> bytes:
        opened = self._member.decompress(chunk, room)
        while self._member.eof and self._member.unused_data and len(opened) < room:
            rest = self._member.unused_data
            self._members += 1
            if self._members > _MAX_MEMBERS:
                raise ValueError("too many gzip members")
            self._member = zlib.decompressobj(31)
            opened += self._member.decompress(rest, room - len(opened))
        return opened

    def whole(self) -> bool:
        return self._member.eof


class _Deflate:
    """zlib's form as the RFC says, or bare deflate as some servers send."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj()
        self._head: bytes | None = b""

    def decode(self, chunk: bytes, room: int) -> bytes:
        if self._head is not None:
            chunk = self._head + chunk
            if len(chunk) < 2:
                self._head = chunk
                return b""
            self._head = None
            if chunk[0] & 0x0F != 8 or int.from_bytes(chunk[:2], "big") % 31:
                self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        if self._stream.eof:
            raise ValueError("other bytes follow it")
        opened = self._stream.decompress(chunk, room)
        if self._stream.unused_data:
            raise ValueError("other bytes follow it")
        return opened

    def whole(self) -> bool:
        return self._stream.eof


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    def decode(self, chunk: bytes, room: int) -> bytes:
        if self._stream.is_finished():
            raise ValueError("other bytes follow it")
        opened: bytes = self._stream.process(chunk, output_buffer_limit=room)
        while len(opened) < room and not self._stream.can_accept_more_data():
            opened += self._stream.process(b"", output_buffer_limit=room - len(opened))
        return opened

    def whole(self) -> bool:
        return bool(self._stream.is_finished())
