"""`POST /v1/plan`: what a batch would take, known before anything of it is sent."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request

from paceline.api.batch_reader import BatchDep
from paceline.api.dependencies import RegistryDep
from paceline.api.disconnect import run_until_disconnect
from paceline.api.schemas import examples
from paceline.api.schemas.openapi import problem_responses, request_body
from paceline.batch.batch_request import BatchRequest
from paceline.batch.plan import Plan, plan_batch

router = APIRouter(tags=["requests"])


@router.post(
    "/v1/plan",
    operation_id="plan",
    summary="What a batch would take, told without sending anything of it.",
    responses={
        200: {"description": "The plan.", "content": {"application/json": {"example": examples.PLAN_RESPONSE}}},
        **problem_responses(400, 413, 415, 422, 503),
    },
    openapi_extra=request_body(BatchRequest, examples.BATCH_REQUESTS),
)
async def plan(request: Request, batch: BatchDep, registry: RegistryDep) -> Plan:
    """Simulate the batch against the present state of its upstreams."""
    return await run_until_disconnect(request.receive, plan_batch(registry, batch))
