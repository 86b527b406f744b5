"""`/v1/upstreams`: how each declared upstream stands; pause it, retune it, reset it. Nothing here survives a reload."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
from fastapi import FastAPI
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.content_negotiation import JSON
from paceline.api.dependencies import ApiContext, get_tenant
from paceline.api.errors import Invalid, NotFound
from paceline.api.problem_code import ProblemCode
from paceline.api.request_body import LARGE_REQUEST_BYTES, read_json
from paceline.api.schemas.requests import UpstreamPatch
from paceline.api.schemas.responses import UpstreamList
from paceline.batch.batch_request import RateSpec
from paceline.batch.field_types import parse_rate
from paceline.batch.input_errors import FieldError
from paceline.model import Rate, Tenant
from paceline.upstream.snapshot import state_of
from paceline.upstream.upstream import Upstream


def add_routes(app: FastAPI, context: ApiContext) -> None:
    decoder = msgspec.json.Decoder(UpstreamPatch)
    encode = msgspec.json.Encoder().encode

    @app.get("/v1/upstreams", response_model=None)
    async def list_upstreams(request: Request) -> Response:
        now = time.perf_counter()
        states = [state_of(each, now) for each in _visible_upstreams(context, get_tenant(request.scope))]
        return Response(encode(UpstreamList(states)), media_type=JSON)

    @app.get("/v1/upstreams/{name}", response_model=None)
    async def get_upstream(request: Request) -> Response:
        upstream = _find_upstream(context, request)
        return Response(encode(state_of(upstream, time.perf_counter())), media_type=JSON)

    @app.patch("/v1/upstreams/{name}", response_model=None)
    async def update_upstream(request: Request) -> Response:
        upstream = _find_upstream(context, request)
        patch = await read_json(request, decoder, min(context.config.server.max_body, 8 * LARGE_REQUEST_BYTES))
        _apply_patch(upstream, patch)
        return Response(encode(state_of(upstream, time.perf_counter())), media_type=JSON)


def _visible_upstreams(context: ApiContext, tenant: Tenant) -> list[Upstream]:
    return [each for each in context.registry if tenant.upstreams is None or each.name in tenant.upstreams]


def _find_upstream(context: ApiContext, request: Request) -> Upstream:
    name, visible = request.path_params["name"], _visible_upstreams(context, get_tenant(request.scope))
    for each in visible:
        if each.name == name:
            return each
    known = ", ".join(each.name for each in visible) or "none"
    raise NotFound(
        f"no upstream of this name is declared for you; there is: {known}", code=ProblemCode.UNKNOWN_UPSTREAM
    )


def _apply_patch(upstream: Upstream, patch: UpstreamPatch) -> None:
    """Reset first, so that what is asked for besides holds; nothing is done unless all of it can be."""
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
