"""The one outcome of an item, built from what its pipeline returned or raised."""

from __future__ import annotations

from http import HTTPStatus

from msgspec import Struct

from paceline.batch.body_encoding import encode_body
from paceline.errors import PacelineError
from paceline.header_values import HOP_BY_HOP_RESPONSE_HEADERS
from paceline.model import ErrorCode, Expect, Failure, Headers, Outcome, OutcomeKind, Receipt, Response, Timing, Verdict


class OutcomeContext(Struct):
    """What an outcome says of its item; filled in as it becomes known."""

    id: str
    index: int
    expect: Expect
    start_s: float
    """When it was ready, in seconds after its batch began."""
    receipt: Receipt
    upstream: str = "other"
    method: str = "GET"


def outcome_from_response(context: OutcomeContext, response: Response, total_s: float) -> Outcome:
    """The outcome of an item with a response."""
    status = response.status
    receipt = context.receipt
    failure: Failure | None = None
    kind = OutcomeKind.SUCCESS
    if status >= 400:
        kind = OutcomeKind.HTTP_ERROR
        failure = _failure_from_response(context, response)
    body, encoding = encode_body(response, context.expect, context.method)
    return Outcome(
        id=context.id,
        index=context.index,
        upstream=context.upstream,
        outcome=kind,
        status=status,
        headers=join_headers(response.headers),
        body=body,
        body_encoding=encoding,
        attempts=receipt.attempts,
        error=failure,
        timing=build_timing(receipt, context.start_s, total_s),
    )


def outcome_without_response(
    context: OutcomeContext,
    code: ErrorCode,
    message: str,
    total_s: float,
    *,
    sent: bool = False,
    retry_after_s: float | None = None,
) -> Outcome:
    """The outcome of an item without a response."""
    return Outcome(
        id=context.id,
        index=context.index,
        upstream=context.upstream,
        outcome=code.outcome,
        status=None,
        headers={},
        body=None,
        body_encoding="none",
        attempts=context.receipt.attempts,
        error=Failure(code, message, sent, _to_ms(retry_after_s)),
        timing=build_timing(context.receipt, context.start_s, total_s),
    )


def outcome_from_error(context: OutcomeContext, error: PacelineError, total_s: float) -> Outcome:
    """The outcome of an item that ended in one of our own errors."""
    sent = error.sent or context.receipt.sent  # a retry may be refused after an earlier attempt was sent
    return outcome_without_response(
        context,
        error.code,
        error.message + _retry_budget_note(context.receipt),
        total_s,
        sent=sent,
        retry_after_s=error.retry_after_s,
    )


def build_timing(receipt: Receipt, start_s: float, total_s: float) -> Timing:
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
    """Join repeated fields with ", "; `set-cookie`, which cannot be joined, becomes a list.

    Hop-by-hop fields are left out: they concern a connection that the caller is no part of.
    """
    joined: dict[str, str | list[str]] = {}
    for name, value in headers:
        if name in HOP_BY_HOP_RESPONSE_HEADERS:
            continue
        previous = joined.get(name)
        if name == "set-cookie":
            if isinstance(previous, list):
                previous.append(value)
            else:
                joined[name] = [value]
        else:
            joined[name] = value if previous is None else f"{previous}, {value}"
    return joined


def _failure_from_response(context: OutcomeContext, response: Response) -> Failure:
    receipt = context.receipt
    throttled = receipt.verdict is Verdict.THROTTLED
    message = (
        f"the upstream refused it for its rate ({response.status})"
        if throttled
        else f"the upstream answered {response.status} {_reason_phrase(response.status)}".rstrip()
    )
    return Failure(
        ErrorCode.THROTTLED if throttled else ErrorCode.HTTP_STATUS,
        message + _retry_budget_note(receipt),
        True,
        _to_ms(receipt.retry_after_s),
    )


def _retry_budget_note(receipt: Receipt) -> str:
    return "; not tried again, as the upstream's retry budget is empty" if receipt.retry_budget_exhausted else ""


def _reason_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _seconds(part: tuple[float, str]) -> float:
    return part[0]


def _to_ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
