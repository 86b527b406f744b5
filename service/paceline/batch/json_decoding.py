"""JSON to values, strictly: a refusal says in words what is wrong and in which field."""

from __future__ import annotations

import codecs
from typing import TypeVar

import msgspec

from paceline.batch.decode_errors import explain_decode_error
from paceline.batch.input_errors import MalformedInput

_UTF8_CHUNK_BYTES = 256 * 1024
"""Decoded at a time to check it: as text it may be four times as large."""

T = TypeVar("T")


def decode_json(text: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The values of a whole text.

    Raises:
        MalformedInput: it is not JSON.
        FieldError: it is JSON of another shape; names the field.
    """
    check_utf8(text)
    return decode_part(text, decoder)


def check_utf8(text: bytes) -> None:
    """Let only UTF-8 through: a part that is passed on as it is must be that too.

    Raises:
        MalformedInput: it is not.
    """
    if text.isascii():
        return
    utf8_decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(text), _UTF8_CHUNK_BYTES):
            utf8_decoder.decode(text[start : start + _UTF8_CHUNK_BYTES])
        utf8_decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise MalformedInput("is not UTF-8; JSON always is") from None


def decode_part(part: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T], path: str = "") -> T:
    """The values of a text, or of its part at `path`, whose encoding has been checked.

    Raises:
        MalformedInput: it is not JSON.
        FieldError: it is JSON of another shape; names the field.
    """
    try:
        return decoder.decode(part)
    except RecursionError:
        raise MalformedInput("is nested too deeply to be read") from None
    except msgspec.ValidationError as error:
        raise explain_decode_error(str(error), part, decoder.type, path) from None
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ").replace("Input data was truncated", "it ends too early")
        raise MalformedInput(f"is not JSON that can be read: {reason}") from None
