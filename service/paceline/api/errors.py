"""Errors of the API itself, as problem documents (RFC 9457). The result of an item is never one of them.

ApiError
+-- BadRequest              400 not_json
+-- MalformedRequest        400 not_http
+-- Unauthorized            401 unauthorized
+-- Forbidden               403 forbidden_upstream
+-- NotFound                404 not_found, unknown_upstream
+-- MethodNotAllowed        405 method_not_allowed
+-- NotAcceptable           406 not_acceptable
+-- RequestTimeout          408 request_timeout
+-- NoCompareTarget         409 no_compare_target
+-- TooLarge                413 too_large
+-- UnsupportedMediaType    415 unsupported_media_type
+-- Misdirected             421 misdirected
+-- Invalid                 422 invalid
+-- OverShare               429 over_share
+-- HeadTooLarge            431 head_too_large
+-- ClientDisconnected      no response: the caller disconnected
+-- InternalError           500 internal
+-- Unavailable             503 overloaded, draining
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated

import msgspec
from fastapi.routing import iter_route_contexts
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from paceline.api.problem_code import ProblemCode
from paceline.batch.input_errors import InputError, MalformedInput, TooManyItems

PROBLEM_TYPE = "application/problem+json"
_REASON_PHRASES = {413: "Content Too Large", 422: "Unprocessable Content"}


class Problem(Struct, frozen=True):
    """A problem document (RFC 9457)."""

    type: Annotated[str, Meta(description="Always `about:blank`; `code` says which problem it is.")]
    title: Annotated[str, Meta(description="Name of the status.")]
    status: Annotated[int, Meta(description="Status of the response.")]
    detail: Annotated[str, Meta(description="What is wrong and what to write instead, for people.")]
    code: Annotated[str, Meta(description="Code of the problem, one of a closed set.")]
    field: Annotated[
        str | UnsetType,
        Meta(description="Part of the request that must be corrected, such as `requests[3].timeout`."),
    ] = UNSET


class ApiError(Exception):
    """The root: a code, which has a status, and a sentence that says what to change."""

    code: ProblemCode

    def __init__(
        self,
        detail: str,
        *,
        field: str | UnsetType = UNSET,
        code: ProblemCode | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.headers = dict(headers or {})
        if code is not None:
            self.code = code

    @property
    def status(self) -> int:
        return self.code.status


class BadRequest(ApiError):
    code = ProblemCode.NOT_JSON


class MalformedRequest(ApiError):
    code = ProblemCode.NOT_HTTP


class Unauthorized(ApiError):
    code = ProblemCode.UNAUTHORIZED


class Forbidden(ApiError):
    code = ProblemCode.FORBIDDEN_UPSTREAM


class NotFound(ApiError):
    code = ProblemCode.NOT_FOUND


class MethodNotAllowed(ApiError):
    code = ProblemCode.METHOD_NOT_ALLOWED


class NotAcceptable(ApiError):
    code = ProblemCode.NOT_ACCEPTABLE


class RequestTimeout(ApiError):
    """The request did not arrive in time."""

    code = ProblemCode.REQUEST_TIMEOUT


class NoCompareTarget(ApiError):
    code = ProblemCode.NO_COMPARE_TARGET


class TooLarge(ApiError):
    code = ProblemCode.TOO_LARGE


class UnsupportedMediaType(ApiError):
    code = ProblemCode.UNSUPPORTED_MEDIA_TYPE


class Misdirected(ApiError):
    code = ProblemCode.MISDIRECTED


class Invalid(ApiError):
    """The body is JSON and its shape or a value in it is wrong; `field` names it like `requests[3].timeout`."""

    code = ProblemCode.INVALID


class OverShare(ApiError):
    """The caller holds its share of a service that is more than half full."""

    code = ProblemCode.OVER_SHARE


class HeadTooLarge(ApiError):
    code = ProblemCode.HEAD_TOO_LARGE


class ClientDisconnected(ApiError):
    """The caller disconnected: nothing is sent, so it has no code."""


class InternalError(ApiError):
    code = ProblemCode.INTERNAL


class Unavailable(ApiError):
    code = ProblemCode.OVERLOADED


def reason_phrase(status: int) -> str:
    """The name of a status, as RFC 9110 has it."""
    return _REASON_PHRASES.get(status) or HTTPStatus(status).phrase


class NoResponse(Response):
    """A response that is not sent: its caller has disconnected."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        return


def to_problem(error: ApiError) -> Problem:
    """An error as a document."""
    return Problem("about:blank", reason_phrase(error.status), error.status, error.detail, error.code, error.field)


def problem_response(scope: Scope, error: ApiError) -> Response:
    """The answer an error is told with."""
    response = Response(msgspec.json.encode(to_problem(error)), error.status, error.headers, PROBLEM_TYPE)
    if any(name == b"expect" for name, _ in scope["headers"]):
        # The caller may wait for a 100 that never comes, and its body would be taken for the next request.
        response.headers["connection"] = "close"
    return response


async def render_http_exception(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path, or a method that a path does not take."""
    assert isinstance(error, HTTPException)
    if error.status_code != 405:
        return problem_response(request.scope, NotFound("there is nothing at this path; /docs lists what there is"))
    methods = {
        method
        for route in iter_route_contexts(request.app.routes)
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    allowed = ", ".join(sorted(methods))
    detail = f"this path takes {allowed}; use one of these" if "," in allowed else f"this path takes {allowed} only"
    return problem_response(request.scope, MethodNotAllowed(detail, headers={"allow": allowed}))


async def render_api_error(request: Request, error: Exception) -> Response:
    """Any refusal of ours."""
    assert isinstance(error, ApiError)
    if isinstance(error, ClientDisconnected):
        return NoResponse()
    return problem_response(request.scope, error)


async def render_input_error(request: Request, error: Exception) -> Response:
    """A mistake in a batch or an item, which the batch's own validation found."""
    assert isinstance(error, InputError)
    return problem_response(request.scope, to_api_error(error))


def to_api_error(error: InputError) -> ApiError:
    """The status and code of a mistake in the input; the words are its own."""
    if isinstance(error, MalformedInput):
        return BadRequest(str(error))
    if isinstance(error, TooManyItems):
        return TooLarge(str(error), field=error.field)
    return Invalid(str(error), field=error.field or UNSET)


async def render_internal_error(request: Request, error: Exception) -> Response:
    """A fault of ours: the server logs it, the caller learns nothing of it but that it happened."""
    return problem_response(request.scope, InternalError("a fault of the service itself; its log says more"))
