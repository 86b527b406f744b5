"""`POST /v1/batch`: many requests in, one outcome for each."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.accept import EVENTS, JSON, NDJSON, wanted_form
from paceline.api.answers import StreamAnswer, WholeAnswer
from paceline.api.body import read_json
from paceline.api.checks import batch_of
from paceline.api.core import Core, tenant_of
from paceline.api.schemas import BatchBody


def add_routes(app: FastAPI, core: Core) -> None:
    decoder = msgspec.json.Decoder(BatchBody)

    @app.post("/v1/batch", response_model=None)
    async def batch(request: Request) -> Response:
        form = wanted_form(request.scope, (JSON, NDJSON, EVENTS))
        core.intake.check()
        limits = core.config.server
        body = await read_json(request, decoder, limits.max_body)
        checked = batch_of(body, tenant_of(request.scope), limits)
        return WholeAnswer(core, checked) if form == JSON else StreamAnswer(core, checked, form)
