"""Is it alive, is it ready, and its metrics. None of these needs a key."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.dependencies import LoadShedderDep, RenderMetricsDep
from paceline.api.load_shedding import LoadShedder
from paceline.api.schemas import examples
from paceline.api.schemas.responses import HealthResponse

router = APIRouter(tags=["operations"])

ALIVE = HealthResponse("alive")


def check_readiness(load_shedder: LoadShedder) -> tuple[HealthResponse, int]:
    """The state and its status: 200 while requests should be sent here, 503 before and after."""
    if load_shedder.is_ready:
        return HealthResponse("ready"), 200
    return HealthResponse("not_ready"), 503


@router.get(
    "/healthz",
    operation_id="health",
    summary="Is the process alive?",
    responses={
        200: {
            "description": "The process is alive.",
            "content": {"application/json": {"example": examples.ALIVE_RESPONSE}},
        }
    },
)
async def healthz() -> HealthResponse:
    """200 for as long as the process answers."""
    return ALIVE


@router.get(
    "/readyz",
    operation_id="readiness",
    summary="Does it take batches?",
    responses={
        200: {
            "description": "Batches are accepted.",
            "content": {"application/json": {"example": examples.READY_RESPONSE}},
        },
        503: {
            "model": HealthResponse,
            "description": "The service starts or shuts down: send nothing here.",
            "content": {"application/json": {"example": examples.NOT_READY_RESPONSE}},
        },
    },
)
async def readyz(response: Response, load_shedder: LoadShedderDep) -> HealthResponse:
    """200 while requests should be sent here; 503 at the start and from the beginning of a shutdown."""
    state, response.status_code = check_readiness(load_shedder)
    return state


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus text, or OpenMetrics where Accept asks for it.",
    response_class=Response,
    responses={
        200: {
            "description": "The metrics.",
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                "application/openmetrics-text": {"schema": {"type": "string"}},
            },
        }
    },
)
async def metrics(request: Request, render_metrics: RenderMetricsDep) -> Response:
    """Counters, histograms and gauges of the service and of its upstreams."""
    body, content_type = render_metrics(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})
