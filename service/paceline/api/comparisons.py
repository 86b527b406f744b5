"""`POST /v1/compare` and the three classic forms: the same request many times, so that strategies can be told apart."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.accept import JSON
from paceline.api.body import read_json
from paceline.api.caller import unless_gone
from paceline.api.checks import check_alone, check_item
from paceline.api.core import Core, tenant_of
from paceline.api.errors import Forbidden, Invalid
from paceline.api.fields import Wrong, check_cap, rate_of
from paceline.api.held import held
from paceline.api.intake import Place
from paceline.api.schemas import CompareAnswer, CompareBody
from paceline.batch.compare import Comparison, compare
from paceline.config.server import Server
from paceline.errors import Rejected
from paceline.model import Item, Rate, Strategy, Tenant
from paceline.upstream.pipeline import DEFAULT_CONCURRENCY
from paceline.upstream.registry import Registry, Upstream

LARGEST = 1024 * 1024
"""The largest body of a comparison, which sends it some hundred times."""


def add_routes(app: FastAPI, core: Core) -> None:
    decoder = msgspec.json.Decoder(CompareBody)
    encode = msgspec.json.Encoder().encode

    async def run_comparison(request: Request, place: Place) -> Response:
        limits = core.config.server
        body = await read_json(request, decoder, min(limits.max_body, LARGEST), place)
        try:
            comparison = _comparison(body, core.registry, tenant_of(request.scope), limits)
        except Wrong as wrong:
            raise wrong.told() from None
        place.hold_items(comparison.n)
        results = await unless_gone(request.receive, compare(core.runner, comparison))
        answer = CompareAnswer(comparison.upstream.name, comparison.n, comparison.unpaced, results)
        return Response(encode(answer), media_type=JSON)

    app.post("/v1/compare", response_model=None, name="compare")(held(core, run_comparison))


def _comparison(body: CompareBody, registry: Registry, tenant: Tenant, limits: Server) -> Comparison:
    try:
        check_item(body.request)
        check_alone(body.request)
    except Wrong as wrong:
        raise wrong.within("request") from None
    if not 1 <= body.n <= limits.max_items:
        raise Wrong("n", f"must be from 1 to {limits.max_items}, the most items of a batch; correct it")
    upstream = upstream_of(body.request, registry, tenant)
    if body.unpaced and not upstream.policy.allow_unpaced:
        raise Wrong("unpaced", f"is refused: {upstream.name} does not say allow_unpaced: true; remove it")
    rate = _rate(body, upstream)
    strategies = body.strategies
    if strategies is UNSET:
        strategies = [each for each in Strategy if rate is not None or each is not Strategy.TOKEN_BUCKET]
    elif rate is None and Strategy.TOKEN_BUCKET in strategies:
        raise Wrong("rate", "is required by token_bucket, as the upstream declares none; add it")
    engines = [upstream.policy.engine] if body.engines is UNSET else body.engines
    for field, named in (("strategies", strategies), ("engines", engines)):
        if not named or len(set(named)) < len(named):
            raise Wrong(field, "must name at least one, and each once; correct it")
    return Comparison(
        upstream=upstream,
        item=body.request,
        n=body.n,
        strategies=strategies,
        engines=engines,
        max_concurrency=DEFAULT_CONCURRENCY if body.max_concurrency is UNSET else check_cap(body.max_concurrency),
        rate=rate,
        unpaced=body.unpaced,
        deadline_s=limits.max_deadline,
        tenant=tenant,
    )


def _rate(body: CompareBody, upstream: Upstream) -> Rate | None:
    """What the token bucket lets through: the rate given, else the upstream's own, where it has one."""
    if body.rate is not UNSET:
        try:
            rate = rate_of(body.rate)
            if rate.unit != "requests":
                raise Wrong("unit", "means nothing here: the token bucket counts requests; remove it")
        except Wrong as wrong:
            raise wrong.within("rate") from None
        return rate
    return next((own for own in upstream.admitter.gate.budgets.rates if own.unit == "requests"), None)


def upstream_of(item: Item, registry: Registry, tenant: Tenant) -> Upstream:
    """Where a request would go.

    Raises:
        Invalid, Forbidden: nowhere, or where this caller may not reach.
    """
    if item.url is not UNSET and (item.upstream is not UNSET or item.path is not UNSET):
        raise Invalid("request has a url besides upstream and path; remove one of them", field="request.url")
    try:
        if item.url is not UNSET:
            upstream = registry.at(item.url)[0]
        elif item.upstream is not UNSET:
            upstream = registry.named(item.upstream)
        else:
            raise Invalid("request needs a url, or an upstream and a path; add one of them", field="request.url")
    except Rejected as error:
        field = "request.upstream" if item.url is UNSET else "request.url"
        raise Invalid(f"{field}: {error.message}", field=field) from None
    if tenant.upstreams is not None and upstream.name not in tenant.upstreams:
        allowed = ", ".join(sorted(tenant.upstreams)) or "none"
        raise Forbidden(f"this API key may not reach {upstream.name!r}; it reaches: {allowed}")
    return upstream
