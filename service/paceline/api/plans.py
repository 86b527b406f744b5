"""`POST /v1/plan`: what a batch would take, told before anything of it is sent."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.accept import JSON
from paceline.api.body import read_json
from paceline.api.caller import unless_gone
from paceline.api.checks import batch_of
from paceline.api.core import Core, tenant_of
from paceline.api.schemas import BatchBody
from paceline.batch.plan import plan_batch


def add_routes(app: FastAPI, core: Core) -> None:
    decoder = msgspec.json.Decoder(BatchBody)
    encode = msgspec.json.Encoder().encode

    @app.post("/v1/plan", response_model=None)
    async def plan(request: Request) -> Response:
        core.intake.check()
        limits = core.config.server
        body = await read_json(request, decoder, limits.max_body)
        batch = batch_of(body, tenant_of(request.scope), limits)
        with core.intake.taken(len(batch.items), limits.max_in_flight_items):
            planned = await unless_gone(request.receive, plan_batch(core.registry, batch))
        return Response(encode(planned), media_type=JSON)
