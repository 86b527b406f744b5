"""An upstream's body as the caller wants it: JSON, text or base64."""

from __future__ import annotations

import codecs
import re
from base64 import b64encode

from msgspec import DecodeError, Raw
from msgspec.json import Decoder

from paceline.model import Expect, Response

_CHARSET = re.compile(r';\s*charset\s*=\s*"?([A-Za-z0-9_.:-]+)"?', re.IGNORECASE).search
_NON_CHARSET_CODEC = re.compile(
    "base64|bz2|hex|idna|punycode|quopri|(raw-)?unicode-escape|rot-13|undefined|uu|zlib"
).fullmatch
_BODILESS_STATUSES = (204, 304)
_NO_BODY: tuple[None, str] = (None, "none")
_validate_json = Decoder(Raw).decode


def encode_body(response: Response, expect: Expect, method: str) -> tuple[Raw | str | None, str]:
    """The body as the caller wants it, and how it is encoded: `json`, `text`, `base64` or `none`."""
    body = response.body
    if not body or expect is Expect.NONE or method == "HEAD" or response.status in _BODILESS_STATUSES:
        return _NO_BODY
    if expect is Expect.BASE64:
        return b64encode(body).decode("ascii"), "base64"
    content_type = response.header("content-type") or ""
    media_type = content_type.partition(";")[0].strip().lower()
    if expect is Expect.AUTO and (media_type == "application/json" or media_type.endswith("+json")) and _is_json(body):
        # Newlines in valid JSON are insignificant: without them the body fits one line of a stream.
        return Raw(body.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in body or b"\r" in body else body), "json"
    text = _decode_text(body, content_type, media_type, expect)
    return (text, "text") if text is not None else (b64encode(body).decode("ascii"), "base64")


def _is_json(body: bytes) -> bool:
    """Whether it is strictly valid: UTF-8, no NaN, no broken surrogate, so that the caller's parser takes it too.

    Validated without decoding, since decoded values may take thirty times its size.
    """
    try:
        if not body.isascii():
            body.decode()
        _validate_json(body)
    except (UnicodeDecodeError, DecodeError, RecursionError):
        return False
    return True


def _decode_text(body: bytes, content_type: str, media_type: str, expect: Expect) -> str | None:
    charset_match = _CHARSET(content_type)
    codec = _find_codec(charset_match[1]) if charset_match else None
    is_text_type = (
        media_type.startswith("text/")
        or media_type in ("application/xml", "application/json")
        or media_type.endswith(("+xml", "+json"))
    )
    if expect is Expect.AUTO and codec is None and not is_text_type:
        return None
    try:
        text = body.decode(codec or "utf-8", "strict" if expect is Expect.AUTO else "replace")
        if codec is not None:
            text.encode()  # UTF-7 may spell half a surrogate pair, which no JSON can carry
    except UnicodeError:
        return None
    return text


def _find_codec(charset: str) -> str | None:
    """Python's name of a charset; None if it is unknown, or one of Python's codecs that are no charset."""
    try:
        name = codecs.lookup(charset).name
    except LookupError:
        return None
    return None if _NON_CHARSET_CODEC(name) else name
