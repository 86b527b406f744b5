"""What the pipeline gave becomes the item's one outcome, with its receipt."""

from __future__ import annotations

import codecs
import re
from base64 import b64encode
from http import HTTPStatus

from msgspec import DecodeError, Raw, Struct
from msgspec.json import Decoder

from paceline.errors import PacelineError
from paceline.model import Expect, Failure, Headers, Outcome, OutcomeKind, Receipt, Response, Timing, Verdict
from paceline.resilience.verdict import verdict_of

_CHARSET = re.compile(r';\s*charset\s*=\s*"?([A-Za-z0-9_.:-]+)"?', re.IGNORECASE).search
_NO_CHARSET = re.compile("base64|bz2|hex|idna|punycode|quopri|(raw-)?unicode-escape|rot-13|undefined|uu|zlib").fullmatch
_NO_CONTENT = (204, 304)
_OF_THE_CONNECTION = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
_NONE: tuple[None, str] = (None, "none")
_json_end = Decoder(Raw).decode


class Subject(Struct):
    """The item an outcome speaks of; filled in as it becomes known."""

    id: str
    index: int
    expect: Expect
    start_s: float
    """When it was ready, in seconds after its batch began."""
    receipt: Receipt
    upstream: str = "other"
    method: str = "GET"
    transient: frozenset[int] = frozenset()


def answered(subject: Subject, response: Response, total_s: float) -> Outcome:
    """The outcome of an item that an upstream answered."""
    status = response.status
    receipt = subject.receipt
    failure: Failure | None = None
    kind = OutcomeKind.SUCCESS
    if status >= 400:
        kind = OutcomeKind.HTTP_ERROR
        failure = _http_failure(subject, response)
    body, encoding = encode_body(response, subject.expect, subject.method)
    return Outcome(
        id=subject.id,
        index=subject.index,
        upstream=subject.upstream,
        outcome=kind,
        status=status,
        headers=join_headers(response.headers),
        body=body,
        body_encoding=encoding,
        attempts=receipt.attempts,
        error=failure,
        timing=timing(receipt, subject.start_s, total_s),
    )


def failed(
    subject: Subject,
    kind: OutcomeKind,
    code: str,
    message: str,
    total_s: float,
    *,
    sent: bool = False,
    retry_after_s: float | None = None,
) -> Outcome:
    """The outcome of an item without an answer."""
    return Outcome(
        id=subject.id,
        index=subject.index,
        upstream=subject.upstream,
        outcome=kind,
        status=None,
        headers={},
        body=None,
        body_encoding="none",
        attempts=subject.receipt.attempts,
        error=Failure(code, message, sent, _ms(retry_after_s)),
        timing=timing(subject.receipt, subject.start_s, total_s),
    )


def refused(subject: Subject, error: PacelineError, total_s: float) -> Outcome:
    """The outcome of an item that ended in an error of ours."""
    sent = error.sent or subject.receipt.sent  # a retry may be refused after an earlier attempt was sent
    return failed(
        subject,
        error.outcome,
        error.code,
        error.message + _why_last(subject.receipt),
        total_s,
        sent=sent,
        retry_after_s=error.retry_after_s,
    )


def timing(receipt: Receipt, start_s: float, total_s: float) -> Timing:
    """The receipt in milliseconds; `limited_by` is its largest part."""
    parts = (
        (receipt.upstream_s, "upstream"),
        (receipt.rate_wait_s, "rate"),
        (receipt.queue_s, "concurrency"),
        (receipt.pause_s, "pause"),
        (receipt.backoff_s, "backoff"),
    )
    return Timing(
        start_ms=round(start_s * 1000, 3),
        total_ms=round(total_s * 1000, 3),
        queue_ms=round(receipt.queue_s * 1000, 3),
        rate_wait_ms=round(receipt.rate_wait_s * 1000, 3),
        pause_ms=round(receipt.pause_s * 1000, 3),
        backoff_ms=round(receipt.backoff_s * 1000, 3),
        upstream_ms=round(receipt.upstream_s * 1000, 3),
        limited_by=max(parts, key=_seconds)[1],
    )


def join_headers(headers: Headers) -> dict[str, str | list[str]]:
    """Repeated fields joined with ", "; `set-cookie`, which cannot be joined, as a list.

    Fields that speak of the connection, which the caller has no part in, are left out.
    """
    joined: dict[str, str | list[str]] = {}
    for name, value in headers:
        if name in _OF_THE_CONNECTION:
            continue
        known = joined.get(name)
        if name == "set-cookie":
            if isinstance(known, list):
                known.append(value)
            else:
                joined[name] = [value]
        else:
            joined[name] = value if known is None else f"{known}, {value}"
    return joined


def encode_body(response: Response, expect: Expect, method: str) -> tuple[Raw | str | None, str]:
    """The body as the caller wants it, and how it is encoded: `json`, `text`, `base64` or `none`."""
    body = response.body
    if not body or expect is Expect.NONE or method == "HEAD" or response.status in _NO_CONTENT:
        return _NONE
    if expect is Expect.BASE64:
        return b64encode(body).decode("ascii"), "base64"
    content_type = response.header("content-type") or ""
    kind = content_type.partition(";")[0].strip().lower()
    if expect is Expect.AUTO and (kind == "application/json" or kind.endswith("+json")) and _is_json(body):
        # Newlines in valid JSON are insignificant: without them the body fits one line of a stream.
        return Raw(body.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in body or b"\r" in body else body), "json"
    text = _text(body, content_type, kind, expect)
    return (text, "text") if text is not None else (b64encode(body).decode("ascii"), "base64")


def _is_json(body: bytes) -> bool:
    """Strictly valid: UTF-8, no NaN, no broken surrogate, so that the caller's parser takes it too.

    Looked through only, as values made of it may take thirty times its size.
    """
    try:
        if not body.isascii():
            body.decode()
        _json_end(body)
    except (UnicodeDecodeError, DecodeError, RecursionError):
        return False
    return True


def _text(body: bytes, content_type: str, kind: str, expect: Expect) -> str | None:
    named = _CHARSET(content_type)
    codec = _codec(named[1]) if named else None
    textual = (
        kind.startswith("text/") or kind in ("application/xml", "application/json") or kind.endswith(("+xml", "+json"))
    )
    if expect is Expect.AUTO and codec is None and not textual:
        return None
    try:
        text = body.decode(codec or "utf-8", "strict" if expect is Expect.AUTO else "replace")
        if codec is not None:
            text.encode()  # UTF-7 may spell half a surrogate pair, which no JSON can carry
    except UnicodeError:
        return None
    return text


def _codec(charset: str) -> str | None:
    """Python's name of a charset; None for what it does not know, and for codecs of its own that are no charset."""
    try:
        name = codecs.lookup(charset).name
    except LookupError:
        return None
    return None if _NO_CHARSET(name) else name


def _http_failure(subject: Subject, response: Response) -> Failure:
    receipt = subject.receipt
    throttled = verdict_of(response, subject.transient, exhausted=receipt.exhausted) is Verdict.THROTTLED
    message = (
        f"the upstream refused it for its rate ({response.status})"
        if throttled
        else f"the upstream answered {response.status} {_phrase(response.status)}".rstrip()
    )
    return Failure(
        "throttled" if throttled else "http_status", message + _why_last(receipt), True, _ms(receipt.retry_after_s)
    )


def _why_last(receipt: Receipt) -> str:
    return "; not tried again, as the upstream's retry budget is empty" if receipt.retries_spent else ""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _seconds(part: tuple[float, str]) -> float:
    return part[0]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
