"""The three classic forms, as they are usually written: httpx, one attempt a request, no more policy than their own.

They call `compare.target`, through the same runner as everything else, so what an operator declared binds them too.
"""

from __future__ import annotations

import re

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.content_negotiation import JSON
from paceline.api.dependencies import ApiContext, get_tenant
from paceline.api.disconnect import run_until_disconnect
from paceline.api.errors import Invalid, NoCompareTarget
from paceline.api.load_shedding import Reservation
from paceline.api.routes.compare import resolve_upstream
from paceline.api.schemas.responses import ClassicResponse
from paceline.api.with_reservation import with_reservation
from paceline.batch.field_types import DEFAULT_DEADLINE_S, MAX_VALUE, cap_priority
from paceline.model import Batch, Item, ItemRetry, Outcome, Priority, Strategy

NO_RESPONSE_STATUS = 0
"""In place of the status of a request that got none."""

_match_integer = re.compile(r"[0-9]{1,10}").fullmatch


def add_routes(app: FastAPI, context: ApiContext) -> None:
    encode = msgspec.json.Encoder().encode

    async def run(request: Request, reservation: Reservation, strategy: Strategy, description: str) -> Response:
        limits = context.config.server
        target = context.config.compare.target
        count = _parse_integer_parameter(request, "num_requests", limits.max_items)
        max_concurrency = (
            _parse_integer_parameter(request, "max_concurrent", MAX_VALUE) if strategy is Strategy.BOUNDED else None
        )
        if target is None:
            raise NoCompareTarget("there is nothing to call; set compare.target, as in {upstream: name, path: /get}")
        item = Item(upstream=target.upstream, path=target.path)
        tenant = get_tenant(request.scope)
        resolve_upstream(item, context.registry, tenant)
        batch = Batch(
            items=[item] * count,
            strategy=strategy,
            max_concurrency=max_concurrency,
            deadline_s=min(DEFAULT_DEADLINE_S, limits.max_deadline),
            priority=cap_priority(Priority.NORMAL, tenant),
            retry=ItemRetry(attempts=1),
            tenant=tenant,
            engine="httpx",
        )
        statuses = [NO_RESPONSE_STATUS] * count

        def record_status(outcome: Outcome) -> None:
            statuses[outcome.index] = outcome.status or NO_RESPONSE_STATUS

        reservation.reserve_items(count)
        batch_run = context.runner.open_run(batch)
        summary = await run_until_disconnect(request.receive, context.runner.run(batch, record_status, batch_run))
        message = (
            f"{summary.succeeded} of {count} requests succeeded, sent {description}, in {batch_run.elapsed_s:.2f} s"
        )
        return Response(encode(ClassicResponse(message, statuses)), media_type=JSON)

    async def run_sequential(request: Request, reservation: Reservation) -> Response:
        return await run(request, reservation, Strategy.SEQUENTIAL, "one after another")

    async def run_concurrent(request: Request, reservation: Reservation) -> Response:
        return await run(request, reservation, Strategy.CONCURRENT, "all at once")

    async def run_bounded(request: Request, reservation: Reservation) -> Response:
        description = f"at most {request.path_params['max_concurrent']} at a time"
        return await run(request, reservation, Strategy.BOUNDED, description)

    for path, endpoint in (
        ("/sync/{num_requests}", run_sequential),
        ("/async/{num_requests}", run_concurrent),
        ("/async_sem/{num_requests}/{max_concurrent}", run_bounded),
    ):
        app.get(path, response_model=None)(with_reservation(context, endpoint))


def _parse_integer_parameter(request: Request, name: str, maximum: int) -> int:
    text = request.path_params[name]
    if not _match_integer(text) or not 1 <= int(text) <= maximum:
        raise Invalid(f"{name} must be a whole number from 1 to {maximum}; correct it", field=name)
    return int(text)
