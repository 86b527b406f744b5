"""A response body as it arrives: decoded, and capped by its decoded bytes.

Decoding stops at the first byte above the limit, so a decompression bomb costs `max_response` bytes and no more. One
coding at most; a stacked, unknown or truncated one, or bytes after its end, is a `ProtocolError`.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import brotli

from paceline.errors import BodyTooLarge, ProtocolError
from paceline.model import Headers

ACCEPT_ENCODING = "gzip, deflate, br"
_MAX_GZIP_MEMBERS = 1000


class _ContentDecoder(Protocol):
    def decode(self, chunk: bytes, max_bytes: int) -> bytes:
        """Decode `chunk`, to about `max_bytes` at most. Raises on what is not its coding."""
        ...

    def is_complete(self) -> bool:
        """Whether the coding has reached its end."""
        ...


class BodyDecoder:
    """Collects the body of one response: `feed` until the end, then `finish`."""

    __slots__ = ("_chunks", "_decoder", "_has_input", "_max_bytes", "_size_bytes")

    def __init__(self, max_bytes: int, decoder: _ContentDecoder | None = None) -> None:
        self._max_bytes = max_bytes
        self._decoder = decoder
        self._chunks: list[bytes] = []
        self._size_bytes = 0
        self._has_input = False

    @property
    def was_decoded(self) -> bool:
        """Whether a coding was decoded, so that content-encoding and content-length no longer describe the body."""
        return self._has_input and self._decoder is not None

    def feed(self, chunk: bytes) -> None:
        """Decode the next bytes of the body.

        Raises:
            BodyTooLarge: decoded, they pass the limit.
            ProtocolError: they are not what content-encoding says.
        """
        if not chunk:
            return
        self._has_input = True
        if self._decoder is not None:
            try:
                chunk = self._decoder.decode(chunk, self._max_bytes - self._size_bytes + 1)
            except (zlib.error, brotli.error, ValueError) as error:
                raise ProtocolError(f"the body does not decode: {error}", sent=True) from error
        self._size_bytes += len(chunk)
        if self._size_bytes > self._max_bytes:
            raise body_too_large(self._max_bytes)
        self._chunks.append(chunk)

    def finish(self) -> bytes:
        """The whole body. Raises ProtocolError where its coding is truncated."""
        if self.was_decoded and self._decoder is not None and not self._decoder.is_complete():
            raise ProtocolError("the body breaks off before its content-encoding ends", sent=True)
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)


def body_too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than max_response ({max_bytes} bytes)", sent=True)


def open_body_decoder(headers: Headers, max_bytes: int) -> BodyDecoder:
    """A `BodyDecoder` for a response with these lower-case headers.

    Raises:
        ProtocolError: codings are stacked, or the coding was not asked for.
    """
    values = [value for name, value in headers if name == "content-encoding"]
    codings = [
        low for value in values for each in value.split(",") if (low := each.strip().lower()) not in ("", "identity")
    ]
    if not codings:
        return BodyDecoder(max_bytes)
    if len(codings) > 1:
        raise ProtocolError(f"content-encoding {', '.join(codings)}: stacked codings are refused", sent=True)
    match codings[0]:
        case "gzip" | "x-gzip":
            return BodyDecoder(max_bytes, _GzipDecoder())
        case "deflate":
            return BodyDecoder(max_bytes, _DeflateDecoder())
        case "br":
            return BodyDecoder(max_bytes, _BrotliDecoder())
        case other:
            raise ProtocolError(f"content-encoding {other!r} was not asked for", sent=True)


def strip_coding_headers(headers: Headers) -> Headers:
    """The headers of a body whose coding was decoded."""
    return tuple(pair for pair in headers if pair[0] not in ("content-encoding", "content-length"))


class _GzipDecoder:
    """One or more members, one after another, as RFC 1952 allows."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(31)
        self._members = 1

    def decode(self, chunk: bytes, max_bytes: int) -> bytes:
        opened = self._member.decompress(chunk, max_bytes)
        while self._member.eof and self._member.unused_data and len(opened) < max_bytes:
            rest = self._member.unused_data
            self._members += 1
            if self._members > _MAX_GZIP_MEMBERS:
                raise ValueError("too many gzip members")
            self._member = zlib.decompressobj(31)
            opened += self._member.decompress(rest, max_bytes - len(opened))
        return opened

    def is_complete(self) -> bool:
        return self._member.eof


class _DeflateDecoder:
    """zlib's form as the RFC says, or bare deflate as some servers send."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj()
        self._prefix: bytes | None = b""

    def decode(self, chunk: bytes, max_bytes: int) -> bytes:
        if self._prefix is not None:
            chunk = self._prefix + chunk
            if len(chunk) < 2:
                self._prefix = chunk
                return b""
            self._prefix = None
            if chunk[0] & 0x0F != 8 or int.from_bytes(chunk[:2], "big") % 31:
                self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        if self._stream.eof:
            raise ValueError("other bytes follow it")
        opened = self._stream.decompress(chunk, max_bytes)
        if self._stream.unused_data:
            raise ValueError("other bytes follow it")
        return opened

    def is_complete(self) -> bool:
        return self._stream.eof


class _BrotliDecoder:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    def decode(self, chunk: bytes, max_bytes: int) -> bytes:
        if self._stream.is_finished():
            raise ValueError("other bytes follow it")
        opened: bytes = self._stream.process(chunk, output_buffer_limit=max_bytes)
        while len(opened) < max_bytes and not self._stream.can_accept_more_data():
            opened += self._stream.process(b"", output_buffer_limit=max_bytes - len(opened))
        return opened

    def is_complete(self) -> bool:
        return bool(self._stream.is_finished())
