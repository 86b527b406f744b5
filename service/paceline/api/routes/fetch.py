"""`POST /v1/fetch`: one request in, one outcome out."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paceline.api.batch_reader import read_fetch
from paceline.api.batch_responses import ChunkedResponse, ResponseBudget
from paceline.api.content_negotiation import JSON
from paceline.api.dependencies import load_shedder_of, service_of, tenant_of
from paceline.api.disconnect import run_until_disconnect
from paceline.api.schemas import examples
from paceline.api.schemas.openapi import json_response, problem_responses, request_body
from paceline.batch.batch_request import FetchRequest
from paceline.model import Outcome

router = APIRouter(tags=["requests"])


@router.post(
    "/v1/fetch",
    operation_id="fetch",
    summary="Send one request; its outcome.",
    response_model=None,
    responses={
        200: json_response(Outcome, examples.FETCH_RESPONSE, "The outcome of the request, whatever it is."),
        **problem_responses(400, 413, 415, 422, 503),
    },
    openapi_extra=request_body(FetchRequest, examples.FETCH_REQUESTS),
)
async def fetch(request: Request) -> Response:
    """Send the request as soon as its upstream allows, ahead of batches of lower priority."""
    return _FetchResponse(request)


class _FetchResponse(Response):
    """Holds a reservation while it reads the request, runs it and hands over the outcome.

    Other routes have that from `ReservationDep`, which is 35 us of CPU, and a body from another dependency, 10 us: of
    the 400 us that a fetch takes, but not of a batch's milliseconds.
    """

    def __init__(self, request: Request) -> None:
        self.background = None
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, load_shedder = service_of(self._request), load_shedder_of(self._request)
        limits = service.config.server
        with load_shedder.reserve(tenant_of(self._request), limits) as reservation:
            batch = await read_fetch(self._request, reservation)
            budget = ResponseBudget(reservation, limits.max_batch_response)
            outcomes: list[bytes] = []
            run = service.runner.run(batch, lambda outcome: outcomes.append(budget.encode_outcome(outcome)))
            await run_until_disconnect(receive, run)
            await ChunkedResponse(outcomes[0], media_type=JSON)(scope, receive, send)
