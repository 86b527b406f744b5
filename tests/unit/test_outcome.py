"""What an item gives back: bodies in their encodings, headers joined, errors told, receipts in milliseconds."""

from __future__ import annotations

import json
from base64 import b64encode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from paceline.batch.outcome import (
    OutcomeContext,
    build_timing,
    encode_body,
    join_headers,
    outcome_from_error,
    outcome_from_response,
    outcome_without_response,
)
from paceline.errors import ConnectFailed, EgressDenied, Overloaded
from paceline.model import TRANSIENT_STATUSES, Expect, OutcomeKind, Receipt, Response

JSON = "application/json"


def encoded(
    body: bytes, content_type: str | None = JSON, expect: Expect = Expect.AUTO, method: str = "GET", status: int = 200
) -> tuple[object, str]:
    headers = () if content_type is None else (("content-type", content_type),)
    value, encoding = encode_body(Response(status, headers, body), expect, method)
    return (bytes(value) if isinstance(value, Raw) else value), encoding


def subject(**fields: object) -> OutcomeContext:
    whole = {"id": "a", "index": 0, "expect": Expect.AUTO, "start_s": 0.0, "receipt": Receipt()}
    return OutcomeContext(**{**whole, "transient_statuses": TRANSIENT_STATUSES, **fields})


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
    outcome = outcome_from_response(subject(expect=expect), response, 0.0)
    json.loads(msgspec.json.encode(outcome))


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


def test_repeated_headers_are_joined_and_set_cookie_is_always_a_list():
    headers = (("vary", "a"), ("set-cookie", "x=1, 2"), ("vary", "b"), ("set-cookie", "y=2"), ("etag", '"1"'))
    assert join_headers(headers) == {"vary": "a, b", "set-cookie": ["x=1, 2", "y=2"], "etag": '"1"'}
    assert join_headers((("set-cookie", "x=1"),)) == {"set-cookie": ["x=1"]}


@pytest.mark.parametrize("status", [200, 204, 206, 301, 304, 399])
def test_a_status_below_400_is_a_success(status: int):
    outcome = outcome_from_response(subject(), Response(status, (), b""), 0.0)
    assert (outcome.outcome, outcome.error, outcome.status) == (OutcomeKind.SUCCESS, None, status)


def test_a_status_from_400_is_an_http_error_that_keeps_status_headers_and_body():
    response = Response(404, (("content-type", JSON), ("x", "1")), b'{"gone":true}')
    outcome = outcome_from_response(subject(), response, 0.0)
    assert (outcome.outcome, outcome.status, outcome.headers["x"]) == (OutcomeKind.HTTP_ERROR, 404, "1")
    assert outcome.body == Raw(b'{"gone":true}')
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.sent) == ("http_status", True)
    assert outcome.error.message == "the upstream answered 404 Not Found"


def test_a_refusal_for_rate_has_its_own_code_and_the_wait():
    receipt = Receipt(retry_after_s=1.5)
    outcome = outcome_from_response(subject(receipt=receipt), Response(429, (), b""), 0.0)
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.retry_after_ms) == ("throttled", 1500.0)


def test_a_status_nobody_has_named_is_told_all_the_same():
    outcome = outcome_from_response(subject(), Response(599, (), b""), 0.0)
    assert outcome.error is not None
    assert outcome.error.message == "the upstream answered 599"


def test_an_error_of_ours_tells_code_message_and_wait():
    outcome = outcome_from_error(subject(), Overloaded("full", retry_after_s=2.0), 0.5)
    assert (outcome.outcome, outcome.status, outcome.body) == (OutcomeKind.REJECTED, None, None)
    assert outcome.error == msgspec.convert(
        {"code": "overloaded", "message": "full", "sent": False, "retry_after_ms": 2000.0}, type(outcome.error)
    )
    assert outcome.timing.total_ms == 500.0


def test_sent_is_false_only_where_no_attempt_can_have_arrived():
    def told(error: Exception, *, earlier: bool) -> bool:
        outcome = outcome_from_error(subject(receipt=Receipt(sent=earlier)), error, 0.0)
        assert outcome.error is not None
        return outcome.error.sent

    assert told(EgressDenied("no"), earlier=False) is False
    assert told(EgressDenied("no"), earlier=True) is True
    assert told(ConnectFailed("no"), earlier=False) is False
    assert told(ConnectFailed("no"), earlier=True) is True
    assert told(ConnectFailed("no", sent=True), earlier=False) is True


def test_an_outcome_encodes_to_the_documented_object():
    outcome = outcome_without_response(subject(id="x", index=7), OutcomeKind.REJECTED, "halted", "said", 0.0)
    assert json.loads(msgspec.json.encode(outcome)) == {
        "id": "x",
        "index": 7,
        "upstream": "other",
        "outcome": "rejected",
        "status": None,
        "headers": {},
        "body": None,
        "body_encoding": "none",
        "attempts": 0,
        "error": {"code": "halted", "message": "said", "sent": False, "retry_after_ms": None},
        "timing": {
            "start_ms": 0.0,
            "total_ms": 0.0,
            "queue_ms": 0.0,
            "rate_wait_ms": 0.0,
            "pause_ms": 0.0,
            "backoff_ms": 0.0,
            "upstream_ms": 0.0,
            "limited_by": "upstream",
        },
    }


@pytest.mark.parametrize(
    ("part", "limit"),
    [
        ("upstream_s", "upstream"),
        ("rate_wait_s", "rate"),
        ("queue_s", "concurrency"),
        ("pause_s", "pause"),
        ("backoff_s", "backoff"),
    ],
)
def test_an_item_is_limited_by_its_largest_part(part: str, limit: str):
    receipt = Receipt(upstream_s=0.1, rate_wait_s=0.1, queue_s=0.1, pause_s=0.1, backoff_s=0.1)
    setattr(receipt, part, 0.2)
    told = build_timing(receipt, 0.0, 0.6)
    assert told.limited_by == limit
    assert told.queue_ms + told.rate_wait_ms + told.pause_ms + told.backoff_ms + told.upstream_ms == pytest.approx(600)
