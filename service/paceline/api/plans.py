"""`POST /v1/plan`: what a batch would take, told before anything of it is sent."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.accept import JSON
from paceline.api.caller import unless_gone
from paceline.api.core import Core
from paceline.api.held import held
from paceline.api.intake import Place
from paceline.api.reading import read_batch
from paceline.batch.plan import plan_batch


def add_routes(app: FastAPI, core: Core) -> None:
    encode = msgspec.json.Encoder().encode

    async def plan(request: Request, place: Place) -> Response:
        batch = await read_batch(request, place, core.config.server)
        place.hold_items(len(batch.items))
        planned = await unless_gone(request.receive, plan_batch(core.registry, batch))
        return Response(encode(planned), media_type=JSON)

    app.post("/v1/plan", response_model=None, name="plan")(held(core, plan))
