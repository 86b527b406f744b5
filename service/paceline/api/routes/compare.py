"""`POST /v1/compare`: the same request many times under each strategy."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from msgspec import UNSET
from starlette.requests import Request

from paceline.api.dependencies import ReservationDep, ServiceDep, TenantDep
from paceline.api.disconnect import run_until_disconnect
from paceline.api.errors import Forbidden, Invalid
from paceline.api.request_body import json_body
from paceline.api.schemas import examples
from paceline.api.schemas.openapi import problem_responses, request_body
from paceline.api.schemas.requests import CompareRequest
from paceline.api.schemas.responses import CompareResponse
from paceline.batch.compare import Comparison, compare, missing_rate
from paceline.batch.field_types import check_max_concurrency, parse_rate
from paceline.batch.input_errors import FieldError
from paceline.batch.validation import check_item, check_no_dependencies
from paceline.config.server import ServerConfig
from paceline.errors import Rejected
from paceline.model import Item, Rate, Strategy, Tenant
from paceline.upstream.pipeline import DEFAULT_CONCURRENCY
from paceline.upstream.registry import UpstreamRegistry
from paceline.upstream.upstream import Upstream

MAX_BODY_BYTES = 1024 * 1024
"""Bytes. Small, as a comparison sends its request some hundred times."""


router = APIRouter(tags=["strategies"])

CompareRequestDep = Annotated[CompareRequest, Depends(json_body(CompareRequest, MAX_BODY_BYTES))]


@router.post(
    "/v1/compare",
    operation_id="compare",
    summary="The same request many times under each strategy (and engine), one after another.",
    responses={
        200: {
            "description": "One result for each strategy and engine.",
            "content": {"application/json": {"example": examples.COMPARE_RESPONSE}},
        },
        **problem_responses(400, 403, 413, 415, 422, 503),
    },
    openapi_extra=request_body(CompareRequest, examples.COMPARE_REQUESTS),
)
async def run_comparison(
    request: Request, reservation: ReservationDep, body: CompareRequestDep, tenant: TenantDep, service: ServiceDep
) -> CompareResponse:
    """Show what each strategy costs in time and in refusals.

    Before each run the upstream gets the time to forget the one before, so that their order changes nothing.
    """
    comparison = _build_comparison(body, service.registry, tenant, service.config.server)
    reservation.reserve_items(comparison.n)
    results = await run_until_disconnect(request.receive, compare(service.runner, comparison))
    return CompareResponse(comparison.upstream.name, comparison.n, comparison.unpaced, results)


def _build_comparison(
    body: CompareRequest, registry: UpstreamRegistry, tenant: Tenant, limits: ServerConfig
) -> Comparison:
    try:
        check_item(body.request)
        check_no_dependencies(body.request)
    except FieldError as error:
        raise error.with_prefix("request") from None
    if not 1 <= body.n <= limits.max_items:
        raise FieldError("n", f"must be from 1 to {limits.max_items}, the most items of a batch; correct it")
    upstream = resolve_upstream(body.request, registry, tenant)
    if body.unpaced and not upstream.policy.allow_unpaced:
        raise FieldError("unpaced", f"is refused: {upstream.name} does not say allow_unpaced: true; remove it")
    rate = _resolve_rate(body, upstream)
    strategies = body.strategies
    if strategies is UNSET:
        strategies = [each for each in Strategy if rate is not None or each is not Strategy.TOKEN_BUCKET]
    elif rate is None and Strategy.TOKEN_BUCKET in strategies:
        raise missing_rate()
    engines = [upstream.policy.engine] if body.engines is UNSET else body.engines
    for field, values in (("strategies", strategies), ("engines", engines)):
        if not values or len(set(values)) < len(values):
            raise FieldError(field, "must name at least one, and each once; correct it")
    return Comparison(
        upstream=upstream,
        item=body.request,
        n=body.n,
        strategies=strategies,
        engines=engines,
        max_concurrency=DEFAULT_CONCURRENCY
        if body.max_concurrency is UNSET
        else check_max_concurrency(body.max_concurrency),
        rate=rate,
        unpaced=body.unpaced,
        deadline_s=limits.max_deadline,
        tenant=tenant,
    )


def _resolve_rate(body: CompareRequest, upstream: Upstream) -> Rate | None:
    """The rate of the token bucket: the one given, else the upstream's own if it has one."""
    if body.rate is not UNSET:
        try:
            rate = parse_rate(body.rate)
            if rate.unit != "requests":
                raise FieldError("unit", "means nothing here: the token bucket counts requests; remove it")
        except FieldError as error:
            raise error.with_prefix("rate") from None
        return rate
    return next((declared for declared in upstream.async_gate.gate.budgets.rates if declared.unit == "requests"), None)


def resolve_upstream(item: Item, registry: UpstreamRegistry, tenant: Tenant) -> Upstream:
    """The upstream that a request would go to.

    Raises:
        Invalid, Forbidden: nowhere, or where this caller may not reach.
    """
    if item.url is not UNSET and (item.upstream is not UNSET or item.path is not UNSET):
        raise Invalid("request has a url besides upstream and path; remove one of them", field="request.url")
    try:
        if item.url is not UNSET:
            upstream = registry.resolve_url(item.url)[0]
        elif item.upstream is not UNSET:
            upstream = registry.get(item.upstream)
        else:
            raise Invalid("request needs a url, or an upstream and a path; add one of them", field="request.url")
    except Rejected as error:
        field = "request.upstream" if item.url is UNSET else "request.url"
        raise Invalid(f"{field}: {error.message}", field=field) from None
    if tenant.upstreams is not None and upstream.name not in tenant.upstreams:
        allowed = ", ".join(sorted(tenant.upstreams)) or "none"
        raise Forbidden(f"this API key may not reach {upstream.name!r}; it reaches: {allowed}")
    return upstream
