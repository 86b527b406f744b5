"""The codes of the API's own errors: a closed set, each with its status, its meaning and what to do about it."""

from __future__ import annotations

from enum import StrEnum


class ProblemCode(StrEnum):
    """`code` of a problem document. The table in docs/api.md is generated from this one: run `make schema`."""

    status: int
    meaning: str
    fix: str
    """What the caller, or the operator, does about it."""

    def __new__(cls, code: str, status: int, meaning: str, fix: str) -> ProblemCode:
        member = str.__new__(cls, code)
        member._value_ = code
        member.status = status
        member.meaning = meaning
        member.fix = fix
        return member

    NOT_JSON = (
        "not_json",
        400,
        "The body is not JSON in UTF-8, or is nested too deeply.",
        "Send JSON in UTF-8.",
    )
    NOT_HTTP = (
        "not_http",
        400,
        "The request is not HTTP/1.1 that can be read; the connection is closed.",
        "Correct the client as `detail` says, or the proxy in front of the service.",
    )
    UNAUTHORIZED = (
        "unauthorized",
        401,
        "The request has no API key, or an unknown one.",
        "Send a key as `Authorization: Bearer KEY` or `Paceline-Key: KEY`.",
    )
    FORBIDDEN_UPSTREAM = (
        "forbidden_upstream",
        403,
        "This API key may not compare on that upstream.",
        "Use an upstream that `detail` names, or another key.",
    )
    NOT_FOUND = (
        "not_found",
        404,
        "The service has no such path.",
        "Use a path of this document.",
    )
    UNKNOWN_UPSTREAM = (
        "unknown_upstream",
        404,
        "No upstream of this name is declared for the caller.",
        "Use a name that `GET /v1/upstreams` lists.",
    )
    METHOD_NOT_ALLOWED = (
        "method_not_allowed",
        405,
        "The path does not take this method.",
        "Use a method that the `Allow` header names.",
    )
    NOT_ACCEPTABLE = (
        "not_acceptable",
        406,
        "The service cannot respond with any of the types in `Accept`.",
        "Accept `application/json`, `application/x-ndjson` or `text/event-stream`.",
    )
    REQUEST_TIMEOUT = (
        "request_timeout",
        408,
        "The request did not arrive within 30 s of its first byte and a second more for each 64 KiB; the connection "
        "is closed.",
        "Send the request faster, or a smaller body.",
    )
    NO_COMPARE_TARGET = (
        "no_compare_target",
        409,
        "The classic forms have no upstream to call.",
        "Set `compare.target` in the configuration.",
    )
    TOO_LARGE = (
        "too_large",
        413,
        "The body is above `server.max_body` (1 MiB for a comparison, 256 KiB for a `PATCH`), or has too many items.",
        "Split the batch, or raise `server.max_body` or `server.max_items`.",
    )
    UNSUPPORTED_MEDIA_TYPE = (
        "unsupported_media_type",
        415,
        "The body is not sent as JSON.",
        "Send `Content-Type: application/json`.",
    )
    MISDIRECTED = (
        "misdirected",
        421,
        "The name in `Host` is not one of this service's.",
        "Use a name of the service, or add this one to `server.hosts`.",
    )
    INVALID = (
        "invalid",
        422,
        "A field of the body, or a parameter of the path, is wrong.",
        "Correct the part that `field` names as `detail` says.",
    )
    OVER_SHARE = (
        "over_share",
        429,
        "This API key holds its share of a service that is more than half full.",
        "Send the request again after `Retry-After`, or fewer items at a time.",
    )
    HEAD_TOO_LARGE = (
        "head_too_large",
        431,
        "Request line and headers are above 64 KiB; the connection is closed.",
        "Send fewer or shorter headers, or a shorter URL.",
    )
    INTERNAL = (
        "internal",
        500,
        "The service itself failed.",
        "Read the service's log, which has the error.",
    )
    OVERLOADED = (
        "overloaded",
        503,
        "The service is full.",
        "Send the request again after `Retry-After`.",
    )
    DRAINING = (
        "draining",
        503,
        "The service is shutting down.",
        "Send the request again after `Retry-After`, to another instance if there is one.",
    )
