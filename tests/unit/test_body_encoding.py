"""A body in the form its caller wants: JSON as it came, text in its charset, base64 of the rest."""

from __future__ import annotations

import json
from base64 import b64encode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from paceline.batch.body_encoding import encode_body
from paceline.model import Expect, Response

JSON = "application/json"


def encoded(
    body: bytes, content_type: str | None = JSON, expect: Expect = Expect.AUTO, method: str = "GET", status: int = 200
) -> tuple[object, str]:
    headers = () if content_type is None else (("content-type", content_type),)
    value, encoding = encode_body(Response(status, headers, body), expect, method)
    return (bytes(value) if isinstance(value, Raw) else value), encoding


@pytest.mark.parametrize(
    "content_type",
    [JSON, "application/json; charset=utf-8", "Application/JSON", "application/problem+json", "application/a.b+JSON"],
)
def test_json_is_given_as_it_came(content_type: str):
    assert encoded(b'{"b":1, "a":[1.50,null]}', content_type) == (b'{"b":1, "a":[1.50,null]}', "json")


@pytest.mark.parametrize(
    "body",
    [b"123456789012345678901234567890", b"1.0000000000000000000000001", b'{"a":1,"a":2}', b"-0.0", rb'"\ud83d\ude00"'],
)
def test_numbers_and_texts_that_a_parser_would_change_are_kept_to_the_digit(body: bytes):
    assert encoded(body) == (body, "json")


@pytest.mark.parametrize(
    "body",
    [b"NaN", b'{"a":Infinity}', rb'"\ud800"', rb'"\udc00\ud800"', b"{'a':1}", b'{"a":1,}', b"1 2", b"\xef\xbb\xbf{}"],
)
def test_what_is_not_strictly_json_is_text_whatever_it_says(body: bytes):
    assert encoded(body) == (body.decode(), "text")


def test_json_that_is_not_utf_8_is_base64_or_text_in_its_charset():
    assert encoded(b'["\xff"]') == (b64encode(b'["\xff"]').decode(), "base64")
    assert encoded('["é"]'.encode("latin-1"), "application/json; charset=latin-1") == ('["é"]', "text")


def test_deep_nesting_is_text_and_no_crash():
    body = b"[" * 100_000 + b"]" * 100_000
    assert encoded(body)[1] == "text"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_fits_one_line_and_means_the_same(value: object):
    for indent in (None, 2):
        body = json.dumps(value, indent=indent).replace("\n", "\r\n").encode()
        line, encoding = encoded(body)
        assert encoding == "json"
        assert isinstance(line, bytes)
        assert not set(line) & set(b"\r\n")
        assert json.loads(line) == value


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain", "häh".encode(), "häh"),
        ("text/html; charset=ISO-8859-1", b"h\xe4h", "häh"),
        ('text/csv; header=present; Charset="utf-16"', "häh".encode("utf-16"), "häh"),
        ("application/xml", b"<a/>", "<a/>"),
        ("image/svg+xml", b"<svg/>", "<svg/>"),
        ("application/x-www-form-urlencoded; charset=utf-8", b"a=1", "a=1"),
        ("text/plain; charset=bogus", b"still utf-8", "still utf-8"),
        ("text/plain; charset=zlib", b"still utf-8", "still utf-8"),
        ("text/plain; charset=unicode_escape", rb"\ud800", r"\ud800"),
        ("text/plain; charset=utf-8", b"\xef\xbb\xbfx", "\ufeffx"),
    ],
)
def test_text_is_decoded(content_type: str, body: bytes, text: str):
    assert encoded(body, content_type) == (text, "text")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (None, b"text?"),
        ("application/octet-stream", b"text?"),
        ("application/octet-stream; charset=bogus", b"text?"),
        ("application/octet-stream; charset=hex", b"00"),
        ("image/png", b"\x89PNG"),
        ("text/plain", b"h\xe4h"),
        ("text/plain; charset=ascii", "häh".encode()),
        ("text/plain; charset=utf-16", b"odd"),
        ("text/plain; charset=utf-7", b"+2AA-"),
    ],
)
def test_the_rest_is_base64(content_type: str | None, body: bytes):
    assert encoded(body, content_type) == (b64encode(body).decode(), "base64")


@given(
    st.binary(min_size=1),
    st.sampled_from(["utf-7", "utf-16", "idna", "punycode", "big5", "hz", "undefined", "unicode_escape", "cp037", "x"]),
    st.sampled_from(["text/plain", JSON, "application/zip"]),
    st.sampled_from(list(Expect)),
)
def test_every_body_under_every_charset_can_be_written_as_json(body: bytes, charset: str, kind: str, expect: Expect):
    response = Response(200, (("content-type", f"{kind}; charset={charset}"),), body)
    value, _ = encode_body(response, expect, "GET")
    json.loads(msgspec.json.encode(value))


def test_an_expected_form_is_given_whatever_the_type():
    assert encoded(b'{"a":1}', JSON, Expect.TEXT) == ('{"a":1}', "text")
    assert encoded(b"h\xe4h", "image/png", Expect.TEXT) == ("h\ufffdh", "text")
    assert encoded(b'{"a":1}', JSON, Expect.BASE64) == ("eyJhIjoxfQ==", "base64")
    assert encoded(b'{"a":1}', JSON, Expect.NONE) == (None, "none")


@pytest.mark.parametrize("expect", list(Expect))
def test_where_there_is_no_body_there_is_none(expect: Expect):
    assert encoded(b"", JSON, expect) == (None, "none")
    assert encoded(b"{}", JSON, expect, method="HEAD") == (None, "none")
    assert encoded(b"{}", JSON, expect, status=204) == (None, "none")
    assert encoded(b"{}", JSON, expect, status=304) == (None, "none")
