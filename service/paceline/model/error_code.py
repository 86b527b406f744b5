"""The codes of items that did not succeed: a closed set, each with its meaning and what to do about it."""

from __future__ import annotations

from enum import StrEnum

from paceline.model.enums import OutcomeKind


class ErrorCode(StrEnum):
    """`error.code` of an outcome. The table in docs/api.md is generated from this one: run `make schema`."""

    outcome: OutcomeKind
    """The kind of outcome that has this code."""
    meaning: str
    fix: str
    """What the caller, or the operator, does about it."""

    def __new__(cls, code: str, outcome: OutcomeKind, meaning: str, fix: str) -> ErrorCode:
        member = str.__new__(cls, code)
        member._value_ = code
        member.outcome = outcome
        member.meaning = meaning
        member.fix = fix
        return member

    INVALID_REQUEST = (
        "invalid_request",
        OutcomeKind.REJECTED,
        "The item's URL, method, headers, body or cost cannot be sent.",
        "Correct the item as `message` says.",
    )
    UNKNOWN_UPSTREAM = (
        "unknown_upstream",
        OutcomeKind.REJECTED,
        "No upstream has this name.",
        "Use a name that `GET /v1/upstreams` lists, or declare the upstream in the configuration.",
    )
    FORBIDDEN_UPSTREAM = (
        "forbidden_upstream",
        OutcomeKind.REJECTED,
        "This API key may not reach the upstream.",
        "Use a key whose `upstreams` name it.",
    )
    EGRESS_DENIED = (
        "egress_denied",
        OutcomeKind.REJECTED,
        "The service does not send requests to this address.",
        "Use a public address, or have the operator allow this one: declare its upstream, or set `egress.allow`.",
    )
    CIRCUIT_OPEN = (
        "circuit_open",
        OutcomeKind.REJECTED,
        "The upstream is failing, and its circuit breaker is open.",
        "Send the item again after `retry_after_ms`.",
    )
    DEADLINE_UNREACHABLE = (
        "deadline_unreachable",
        OutcomeKind.REJECTED,
        "The item's turn would come after the deadline, or too close to it for an answer at the recent latency.",
        "Raise `deadline`, or send fewer items; `retry_after_ms` is the wait that the item would have needed.",
    )
    OVERLOADED = (
        "overloaded",
        OutcomeKind.REJECTED,
        "The service has no room for the item, or is shutting down.",
        "Send the item again after `retry_after_ms`, to another instance if there is one.",
    )
    HALTED = (
        "halted",
        OutcomeKind.REJECTED,
        "Another item failed, and the batch says `on_failure: halt`.",
        "Correct the item that failed, then send this one again.",
    )
    HTTP_STATUS = (
        "http_status",
        OutcomeKind.HTTP_ERROR,
        "The upstream responded with a status of 400 or more.",
        "Read `status` and `body`: correct the request on 4xx, send it again later on 5xx.",
    )
    THROTTLED = (
        "throttled",
        OutcomeKind.HTTP_ERROR,
        "The upstream refused the item for its rate.",
        "Send the item again after `retry_after_ms`; declare the upstream's real `rate`, so that it is kept.",
    )
    CONNECT_FAILED = (
        "connect_failed",
        OutcomeKind.CONNECT_ERROR,
        "No connection to the upstream; the item was not sent.",
        "Check host and port, and that the upstream is up. A repeat is safe.",
    )
    DNS_FAILED = (
        "dns_failed",
        OutcomeKind.CONNECT_ERROR,
        "The host name cannot be resolved; the item was not sent.",
        "Check the host name, and the DNS that the service uses. A repeat is safe.",
    )
    TLS_FAILED = (
        "tls_failed",
        OutcomeKind.CONNECT_ERROR,
        "The TLS handshake failed; the item was not sent.",
        "Check the upstream's certificate: its names, its expiry, its authority. A repeat is safe.",
    )
    ATTEMPT_TIMEOUT = (
        "attempt_timeout",
        OutcomeKind.TIMEOUT,
        "The last attempt took longer than an attempt may.",
        "Raise the item's `timeout`, or `timeout.attempt` of the upstream.",
    )
    ITEM_TIMEOUT = (
        "item_timeout",
        OutcomeKind.TIMEOUT,
        "All attempts and the backoff between them took longer than the item's `timeout`.",
        "Raise the item's `timeout`, or `timeout.item` of the upstream.",
    )
    PROTOCOL_ERROR = (
        "protocol_error",
        OutcomeKind.PROTOCOL_ERROR,
        "The upstream broke off, or sent what is not HTTP; or the service itself failed, as `message` says.",
        "If `sent` is true, check whether the upstream acted on the request before you repeat it.",
    )
    BODY_TOO_LARGE = (
        "body_too_large",
        OutcomeKind.TOO_LARGE,
        "The response body is larger than the upstream's `max_response`.",
        "Request less, or raise `max_response`.",
    )
    BATCH_RESPONSE_TOO_LARGE = (
        "batch_response_too_large",
        OutcomeKind.TOO_LARGE,
        "The body does not fit into the batch's JSON response (`server.max_batch_response`).",
        "Stream the batch with `Accept: application/x-ndjson`, or send fewer items.",
    )
    DEADLINE_EXCEEDED = (
        "deadline_exceeded",
        OutcomeKind.DEADLINE_EXCEEDED,
        "The batch's deadline passed; `message` says what the item waited for, an operator's pause included.",
        "Raise `deadline`, or send fewer items.",
    )
    CANCELLED = (
        "cancelled",
        OutcomeKind.CANCELLED,
        "The item was under way when `on_failure: halt` or a shutdown ended it.",
        "If `sent` is true, check whether the upstream acted on the request before you repeat it.",
    )
    DEPENDENCY_FAILED = (
        "dependency_failed",
        OutcomeKind.DEPENDENCY_FAILED,
        "An item that this one depends on did not succeed.",
        "Correct the item it depends on, then send both again.",
    )
