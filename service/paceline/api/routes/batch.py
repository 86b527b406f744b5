"""`POST /v1/batch`: many requests in, one outcome for each."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.batch_reader import read_batch
from paceline.api.batch_responses import JsonBatchResponse, StreamingBatchResponse
from paceline.api.content_negotiation import EVENT_STREAM, JSON, NDJSON, negotiate_media_type
from paceline.api.dependencies import service_of
from paceline.api.load_shedding import Reservation
from paceline.api.reserved_response import ReservedResponse
from paceline.api.schemas import examples
from paceline.api.schemas.openapi import json_response, problem_responses, request_body
from paceline.api.schemas.responses import BatchResponse
from paceline.batch.batch_request import BatchRequest

router = APIRouter(tags=["requests"])

# Outcomes are encoded by msgspec: 0.5 us of CPU each, and 2.5 us by a response model. With a JSON body of 1.7 kB it is
# 0.6 us and 19 us, as msgspec passes on the upstream's own bytes, which a model would need decoded.
_RESPONSE = json_response(
    BatchResponse,
    examples.BATCH_RESPONSE,
    "One outcome for each item, whatever it is. A stream has them as they complete, and the summary last.",
)
_RESPONSE["content"] |= {
    NDJSON: {"schema": {"type": "string", "description": "An Outcome a line, then a line with `summary`."}},
    EVENT_STREAM: {"schema": {"type": "string", "description": "Events `item` (an Outcome) and, last, `summary`."}},
}


@router.post(
    "/v1/batch",
    operation_id="batch",
    summary="Send a batch of requests; one outcome for each.",
    response_model=None,
    responses={200: _RESPONSE, **problem_responses(400, 406, 413, 415, 422, 503)},
    openapi_extra=request_body(BatchRequest, examples.BATCH_REQUESTS),
)
async def run_batch(request: Request) -> Response:
    """Send each request as fast as its upstream allows and no faster.

    The response is one JSON document in request order, or a stream of outcomes in the order in which they come, as
    `Accept` asks.
    """
    return ReservedResponse(request, _run_batch)


async def _run_batch(request: Request, reservation: Reservation) -> Response:
    service = service_of(request)
    media_type = negotiate_media_type(request.scope, (JSON, NDJSON, EVENT_STREAM))
    batch = await read_batch(request, reservation)
    max_bytes = service.config.server.max_batch_response
    if media_type == JSON:
        return JsonBatchResponse(service.runner, batch, reservation, max_bytes)
    return StreamingBatchResponse(service.runner, batch, reservation, max_bytes, media_type)
