"""Is it alive, is it ready, and its metrics. No key is asked for here."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from paceline.api.dependencies import ApiContext
from paceline.api.load_shedding import LoadShedder


def add_routes(app: FastAPI, context: ApiContext) -> None:
    @app.get("/healthz", response_model=None)
    async def healthz() -> Response:
        return render_liveness()

    @app.get("/readyz", response_model=None)
    async def readyz() -> Response:
        return render_readiness(context.load_shedder)

    @app.get("/metrics", response_model=None)
    async def metrics(request: Request) -> Response:
        body, content_type = context.render_metrics(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})


def render_liveness() -> Response:
    """200 for as long as there is a process to say so."""
    return JSONResponse({"status": "alive"})


def render_readiness(load_shedder: LoadShedder) -> Response:
    """200 while batches should be sent here, 503 before and after."""
    if load_shedder.is_ready:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "not_ready"}, 503)
