"""`POST /v1/batch`: many requests in, one outcome for each."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.accept import EVENTS, JSON, NDJSON, wanted_form
from paceline.api.answers import StreamAnswer, WholeAnswer
from paceline.api.core import Core
from paceline.api.held import held
from paceline.api.intake import Place
from paceline.api.reading import read_batch


def add_routes(app: FastAPI, core: Core) -> None:
    async def batch(request: Request, place: Place) -> Response:
        form = wanted_form(request.scope, (JSON, NDJSON, EVENTS))
        checked = await read_batch(request, place, core.config.server)
        place.hold_items(len(checked.items))
        return WholeAnswer(core, checked, place) if form == JSON else StreamAnswer(core, checked, place, form)

    app.post("/v1/batch", response_model=None, name="batch")(held(core, batch))
