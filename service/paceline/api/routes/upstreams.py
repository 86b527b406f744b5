"""`/v1/upstreams`: the live state of each declared upstream; pause it, change its rate, reset it, until a reload."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from msgspec import UNSET

from paceline.api.dependencies import RegistryDep, TenantDep, UpstreamDep, visible_upstreams
from paceline.api.errors import Invalid
from paceline.api.request_body import unreserved_json_body
from paceline.api.schemas import examples
from paceline.api.schemas.openapi import problem_responses, request_body
from paceline.api.schemas.requests import UpstreamPatch
from paceline.api.schemas.responses import UpstreamList
from paceline.batch.batch_request import RateSpec
from paceline.batch.field_types import parse_rate
from paceline.batch.input_errors import FieldError
from paceline.model import Rate
from paceline.upstream.snapshot import UpstreamState, state_of
from paceline.upstream.upstream import Upstream

router = APIRouter(tags=["upstreams"])

_MAX_BODY_BYTES = 256 * 1024

UpstreamPatchDep = Annotated[UpstreamPatch, Depends(unreserved_json_body(UpstreamPatch, _MAX_BODY_BYTES))]
_STATE_RESPONSE: dict[str, Any] = {
    "description": "The state of the upstream.",
    "content": {"application/json": {"example": examples.UPSTREAM_RESPONSE}},
}


@router.get(
    "/v1/upstreams",
    operation_id="upstreams",
    summary="How every declared upstream stands.",
    responses={
        200: {
            "description": "The state of each upstream.",
            "content": {"application/json": {"example": {"upstreams": [examples.UPSTREAM_RESPONSE]}}},
        }
    },
)
async def list_upstreams(registry: RegistryDep, tenant: TenantDep) -> UpstreamList:
    """The live state of each upstream that the caller may see."""
    now = time.perf_counter()
    return UpstreamList([state_of(upstream, now) for upstream in visible_upstreams(registry, tenant)])


@router.get(
    "/v1/upstreams/{name}",
    operation_id="upstream",
    summary="How one upstream stands.",
    responses={200: _STATE_RESPONSE, **problem_responses(404)},
)
async def show_upstream(upstream: UpstreamDep) -> UpstreamState:
    """The live state of the upstream: its budgets, their windows, what waits and what is in flight."""
    return state_of(upstream, time.perf_counter())


@router.patch(
    "/v1/upstreams/{name}",
    operation_id="change_upstream",
    summary="Pause an upstream, change its rate until a reset or a reload, or reset it; of several at once, reset "
    "first.",
    responses={200: _STATE_RESPONSE, **problem_responses(400, 404, 413, 415, 422)},
    openapi_extra=request_body(UpstreamPatch, examples.UPSTREAM_PATCHES),
)
async def change_upstream(upstream: UpstreamDep, patch: UpstreamPatchDep) -> UpstreamState:
    """Change the upstream and show its state; nothing is changed unless the whole patch is valid."""
    _apply_patch(upstream, patch)
    return state_of(upstream, time.perf_counter())


def _apply_patch(upstream: Upstream, patch: UpstreamPatch) -> None:
    """Reset first, so that the other changes stay; nothing is done unless all of it is valid."""
    if patch.reset is UNSET and patch.rate is UNSET and patch.paused is UNSET:
        raise Invalid("the body changes nothing; give paused, rate or reset")
    rates = None if patch.rate is UNSET else _parse_rates(patch.rate)
    if patch.reset is True:
        upstream.reset()
    if rates is not None:
        upstream.async_gate.retune(rates)
    if patch.paused is not UNSET:
        upstream.async_gate.set_paused(patch.paused)


def _parse_rates(bodies: Sequence[RateSpec]) -> list[Rate]:
    if not bodies:
        raise Invalid(
            "rate is empty; give at least one window, or reset to go back to the configured ones", field="rate"
        )
    rates: list[Rate] = []
    for index, body in enumerate(bodies):
        try:
            rates.append(parse_rate(body))
        except FieldError as error:
            raise error.with_prefix(f"rate[{index}]") from None
    return rates
