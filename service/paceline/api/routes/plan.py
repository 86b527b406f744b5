"""`POST /v1/plan`: what a batch would take, told before anything of it is sent."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.batch_reader import read_batch
from paceline.api.content_negotiation import JSON
from paceline.api.dependencies import ApiContext
from paceline.api.disconnect import run_until_disconnect
from paceline.api.load_shedding import Reservation
from paceline.api.with_reservation import with_reservation
from paceline.batch.plan import plan_batch


def add_routes(app: FastAPI, context: ApiContext) -> None:
    encode = msgspec.json.Encoder().encode

    async def run_plan(request: Request, reservation: Reservation) -> Response:
        batch = await read_batch(request, reservation, context.config.server)
        reservation.reserve_items(len(batch.items))
        plan = await run_until_disconnect(request.receive, plan_batch(context.registry, batch))
        return Response(encode(plan), media_type=JSON)

    app.post("/v1/plan", response_model=None, name="plan")(with_reservation(context, run_plan))
