"""Is it alive, is it ready, and its metrics. No key is asked for here."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from paceline.api.core import Core
from paceline.api.intake import Intake


def add_routes(app: FastAPI, core: Core) -> None:
    @app.get("/healthz", response_model=None)
    async def healthz() -> Response:
        return alive()

    @app.get("/readyz", response_model=None)
    async def readyz() -> Response:
        return readiness(core.intake)

    @app.get("/metrics", response_model=None)
    async def metrics(request: Request) -> Response:
        body, content_type = core.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})


def alive() -> Response:
    """200 for as long as there is a process to say so."""
    return JSONResponse({"status": "alive"})


def readiness(intake: Intake) -> Response:
    """200 while batches should be sent here, 503 before and after."""
    if intake.is_ready:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "not_ready"}, 503)
