"""The HTTP API as one ASGI application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.routing import Route

from paceline import __version__
from paceline.api.dependencies import ApiContext
from paceline.api.errors import (
    ApiError,
    render_api_error,
    render_http_exception,
    render_input_error,
    render_internal_error,
)
from paceline.api.routes import batch, classic, compare, docs, fetch, health, plan, strategies, upstreams
from paceline.api.schemas.openapi import document
from paceline.batch.input_errors import InputError


def create_api_app(context: ApiContext) -> FastAPI:
    """Every route and every refusal; what stands around them is put there by the composition root."""
    app = FastAPI(
        title="Paceline",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            ApiError: render_api_error,
            InputError: render_input_error,
            HTTPException: render_http_exception,
            Exception: render_internal_error,
        },
    )
    for resource in (batch, plan, fetch, strategies, upstreams, compare, classic, health, docs):
        resource.add_routes(app, context)
    for route in app.routes:
        if isinstance(route, Route) and route.methods is not None and "GET" in route.methods:
            route.methods.add("HEAD")  # load balancers ask so; the server leaves the content out
    app.openapi = lambda: document(context.config)  # type: ignore[method-assign] # how FastAPI has it replaced
    return app
