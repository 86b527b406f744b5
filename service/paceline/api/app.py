"""The FastAPI application: middleware, exception handlers and routers, in the order in which they apply."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from paceline import __version__
from paceline.api.dependencies import ServiceProtocol
from paceline.api.errors import (
    ApiError,
    render_api_error,
    render_http_exception,
    render_input_error,
    render_internal_error,
)
from paceline.api.load_shedding import LoadShedder
from paceline.api.middleware.authentication import ApiKeyMiddleware
from paceline.api.middleware.metrics import HttpMetricsMiddleware
from paceline.api.middleware.trusted_host import TrustedHostMiddleware
from paceline.api.routes import batch, classic, compare, docs, fetch, health, plan, strategies, upstreams
from paceline.api.schemas.openapi import DESCRIPTION, TAGS, openapi_builder
from paceline.batch.input_errors import InputError
from paceline.telemetry.metrics import Metrics

_ROUTERS = (
    fetch.router,  # first: the application tries one after another, and this one has the least to do
    batch.router,
    plan.router,
    strategies.router,
    upstreams.router,
    compare.router,
    classic.router,
    health.router,
    docs.router,
)


def create_app(service: ServiceProtocol, load_shedder: LoadShedder, metrics: Metrics, *, loopback: bool) -> FastAPI:
    """Build the application of a service; `loopback` says that only this machine reaches its listener.

    `app.state` holds what the dependencies hand to the routes.
    """
    app = FastAPI(
        title="Paceline",
        version=__version__,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it looks for OpenTelemetry on each request
        middleware=[  # outermost first; a bug inside of them is answered outside, and still counted as 5xx
            Middleware(HttpMetricsMiddleware, observe=metrics.record_http_request),
            Middleware(TrustedHostMiddleware, loopback=loopback, get_allowed_hosts=lambda: service.config.server.hosts),
            Middleware(ApiKeyMiddleware, get_api_keys=lambda: service.config.server.api_keys),
        ],
        exception_handlers={
            ApiError: render_api_error,
            InputError: render_input_error,
            HTTPException: render_http_exception,
            Exception: render_internal_error,
        },
    )
    app.state.service = service
    app.state.load_shedder = load_shedder
    app.state.render_metrics = metrics.render
    for router in _ROUTERS:
        _answer_head(router)
        app.include_router(router)
    app.openapi = openapi_builder(app, lambda: service.config.server)  # type: ignore[method-assign] # FastAPI's way
    return app


def _answer_head(router: APIRouter) -> None:
    """Answer HEAD on every GET route, as load balancers ask; the server leaves the content out."""
    for route in router.routes:
        if isinstance(route, APIRoute) and route.methods is not None and "GET" in route.methods:
            route.methods.add("HEAD")
