"""`POST /v1/batch`: many requests in, one outcome for each."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.batch_reader import read_batch
from paceline.api.batch_responses import JsonBatchResponse, StreamingBatchResponse
from paceline.api.content_negotiation import EVENT_STREAM, JSON, NDJSON, negotiate_media_type
from paceline.api.dependencies import ApiContext
from paceline.api.load_shedding import Reservation
from paceline.api.with_reservation import with_reservation


def add_routes(app: FastAPI, context: ApiContext) -> None:
    async def run_batch(request: Request, reservation: Reservation) -> Response:
        media_type = negotiate_media_type(request.scope, (JSON, NDJSON, EVENT_STREAM))
        batch = await read_batch(request, reservation, context.config.server)
        reservation.reserve_items(len(batch.items))
        return (
            JsonBatchResponse(context, batch, reservation)
            if media_type == JSON
            else StreamingBatchResponse(context, batch, reservation, media_type)
        )

    app.post("/v1/batch", response_model=None, name="batch")(with_reservation(context, run_batch))
