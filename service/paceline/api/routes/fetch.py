"""`POST /v1/fetch`: one request in, one outcome out."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.batch_reader import read_fetch
from paceline.api.batch_responses import ChunkedResponse, ResponseBudget
from paceline.api.content_negotiation import JSON
from paceline.api.dependencies import service_of
from paceline.api.disconnect import run_until_disconnect
from paceline.api.load_shedding import Reservation
from paceline.api.reserved_response import ReservedResponse
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
    return ReservedResponse(request, _fetch)


async def _fetch(request: Request, reservation: Reservation) -> Response:
    service = service_of(request)
    batch = await read_fetch(request, reservation)
    budget = ResponseBudget(reservation, service.config.server.max_batch_response)
    outcomes: list[bytes] = []
    run = service.runner.run(batch, lambda outcome: outcomes.append(budget.encode_outcome(outcome)))
    await run_until_disconnect(request.receive, run)
    return ChunkedResponse(outcomes[0], media_type=JSON)
