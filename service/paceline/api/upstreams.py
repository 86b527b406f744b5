"""`/v1/upstreams`: how each declared upstream stands; pause it, retune it, reset it. Nothing here survives a reload."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
from fastapi import FastAPI
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.accept import JSON
from paceline.api.body import LARGE, read_json
from paceline.api.core import Core, tenant_of
from paceline.api.errors import Invalid, NotFound
from paceline.api.fields import Wrong, rate_of
from paceline.api.schemas import RateBody, UpstreamList, UpstreamPatch
from paceline.model import Rate, Tenant
from paceline.upstream.registry import Upstream
from paceline.upstream.state import state_of


def add_routes(app: FastAPI, core: Core) -> None:
    decoder = msgspec.json.Decoder(UpstreamPatch)
    encode = msgspec.json.Encoder().encode

    @app.get("/v1/upstreams", response_model=None)
    async def upstreams(request: Request) -> Response:
        now = time.perf_counter()
        states = [state_of(each, now) for each in _seen(core, tenant_of(request.scope))]
        return Response(encode(UpstreamList(states)), media_type=JSON)

    @app.get("/v1/upstreams/{name}", response_model=None)
    async def upstream(request: Request) -> Response:
        found = _found(core, request)
        return Response(encode(state_of(found, time.perf_counter())), media_type=JSON)

    @app.patch("/v1/upstreams/{name}", response_model=None)
    async def change(request: Request) -> Response:
        found = _found(core, request)
        patch = await read_json(request, decoder, min(core.config.server.max_body, 8 * LARGE))
        _apply(found, patch)
        return Response(encode(state_of(found, time.perf_counter())), media_type=JSON)


def _seen(core: Core, tenant: Tenant) -> list[Upstream]:
    return [each for each in core.registry if tenant.upstreams is None or each.name in tenant.upstreams]


def _found(core: Core, request: Request) -> Upstream:
    name, seen = request.path_params["name"], _seen(core, tenant_of(request.scope))
    for each in seen:
        if each.name == name:
            return each
    known = ", ".join(each.name for each in seen) or "none"
    raise NotFound(f"no upstream of this name is declared for you; there is: {known}", code="unknown_upstream")


def _apply(upstream: Upstream, patch: UpstreamPatch) -> None:
    """Reset first, so that what is asked for besides holds; nothing is done unless all of it can be."""
    if patch.reset is UNSET and patch.rate is UNSET and patch.paused is UNSET:
        raise Invalid("the body changes nothing; give paused, rate or reset")
    rates = None if patch.rate is UNSET else _rates(patch.rate)
    if patch.reset is True:
        upstream.reset()
    if rates is not None:
        upstream.admitter.retune(rates)
    if patch.paused is not UNSET:
        upstream.admitter.set_paused(patch.paused)


def _rates(bodies: Sequence[RateBody]) -> list[Rate]:
    if not bodies:
        raise Invalid(
            "rate is empty; give at least one window, or reset to go back to the configured ones", field="rate"
        )
    rates: list[Rate] = []
    for index, body in enumerate(bodies):
        try:
            rates.append(rate_of(body))
        except Wrong as wrong:
            raise wrong.within(f"rate[{index}]").told() from None
    return rates
