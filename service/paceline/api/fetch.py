"""`POST /v1/fetch`: one request in, one outcome out."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.accept import JSON
from paceline.api.body import read_json
from paceline.api.caller import unless_gone
from paceline.api.checks import fetch_of
from paceline.api.core import Core, tenant_of
from paceline.api.schemas import FetchBody
from paceline.model import Outcome


def add_routes(app: FastAPI, core: Core) -> None:
    decoder = msgspec.json.Decoder(FetchBody)
    encode = msgspec.json.Encoder().encode

    @app.post("/v1/fetch", response_model=None)
    async def fetch(request: Request) -> Response:
        core.intake.check()
        limits = core.config.server
        body = await read_json(request, decoder, limits.max_body)
        batch = fetch_of(body, tenant_of(request.scope), limits)
        outcomes: list[Outcome] = []
        with core.intake.taken(1, limits.max_in_flight_items):
            await unless_gone(request.receive, core.runner.run(batch, outcomes.append))
        return Response(encode(outcomes[0]), media_type=JSON)
