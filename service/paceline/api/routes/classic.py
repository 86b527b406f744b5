"""The three classic forms, as they are usually written: httpx, one attempt a request, no more policy than their own.

They call `compare.target`, through the same runner as everything else, so what an operator declared binds them too.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.requests import Request

from paceline.api.dependencies import ReservationDep, ServiceDep, ServiceProtocol, tenant_of
from paceline.api.disconnect import run_until_disconnect
from paceline.api.errors import Invalid, NoCompareTarget
from paceline.api.load_shedding import Reservation
from paceline.api.routes.compare import resolve_upstream
from paceline.api.schemas import examples
from paceline.api.schemas.openapi import problem_responses
from paceline.api.schemas.responses import ClassicResponse
from paceline.batch.field_types import DEFAULT_DEADLINE_S, MAX_VALUE, cap_priority
from paceline.model import Batch, Item, ItemRetry, Outcome, Priority, Strategy

NO_RESPONSE_STATUS = 0
"""Stands for the status of a request that got no response."""

_match_integer = re.compile(r"[0-9]{1,10}").fullmatch


router = APIRouter(tags=["strategies"])


def _count(description: str) -> Any:
    """A path parameter that is a number; text here, as `_parse_count` says better what is wrong with it."""
    return Path(
        description=description,
        openapi_examples={"twenty": {"value": 20}},
        json_schema_extra={"type": "integer", "minimum": 1, "maximum": MAX_VALUE},
    )


NumRequests = Annotated[str, _count("How many times to send the request.")]
MaxConcurrent = Annotated[str, _count("Maximum number of calls in flight.")]


def _documentation(how: str) -> dict[str, Any]:
    """The keyword arguments of a classic route."""
    return {
        "operation_id": f"classic_{how.replace(' ', '_')}",
        "summary": f"The request of compare.target, {how}, on the httpx engine, one attempt each.",
        "responses": {
            200: {
                "description": "The status of each response.",
                "content": {"application/json": {"example": examples.CLASSIC_RESPONSE}},
            },
            **problem_responses(403, 409, 422, 503),
        },
    }


@router.get("/sync/{num_requests}", **_documentation("one after another"))
async def run_sequential(
    num_requests: NumRequests, request: Request, reservation: ReservationDep, service: ServiceDep
) -> ClassicResponse:
    """A status code of 0 stands for a request that got no response."""
    count = _parse_count("num_requests", num_requests, service.config.server.max_items)
    return await _run(request, reservation, service, count, Strategy.SEQUENTIAL, "one after another")


@router.get("/async/{num_requests}", **_documentation("all at once"))
async def run_concurrent(
    num_requests: NumRequests, request: Request, reservation: ReservationDep, service: ServiceDep
) -> ClassicResponse:
    """A status code of 0 stands for a request that got no response."""
    count = _parse_count("num_requests", num_requests, service.config.server.max_items)
    return await _run(request, reservation, service, count, Strategy.CONCURRENT, "all at once")


@router.get("/async_sem/{num_requests}/{max_concurrent}", **_documentation("all at once under a semaphore"))
async def run_bounded(
    num_requests: NumRequests,
    max_concurrent: MaxConcurrent,
    request: Request,
    reservation: ReservationDep,
    service: ServiceDep,
) -> ClassicResponse:
    """A status code of 0 stands for a request that got no response."""
    count = _parse_count("num_requests", num_requests, service.config.server.max_items)
    limit = _parse_count("max_concurrent", max_concurrent, MAX_VALUE)
    how = f"at most {max_concurrent} at a time"
    return await _run(request, reservation, service, count, Strategy.BOUNDED, how, limit)


async def _run(
    request: Request,
    reservation: Reservation,
    service: ServiceProtocol,
    count: int,
    strategy: Strategy,
    how: str,
    max_concurrency: int | None = None,
) -> ClassicResponse:
    target = service.config.compare.target
    if target is None:
        raise NoCompareTarget("there is nothing to call; set compare.target, as in {upstream: name, path: /get}")
    item = Item(upstream=target.upstream, path=target.path)
    tenant = tenant_of(request)
    resolve_upstream(item, service.registry, tenant)
    batch = Batch(
        items=[item] * count,
        strategy=strategy,
        max_concurrency=max_concurrency,
        deadline_s=min(DEFAULT_DEADLINE_S, service.config.server.max_deadline),
        priority=cap_priority(Priority.NORMAL, tenant),
        retry=ItemRetry(attempts=1),
        tenant=tenant,
        engine="httpx",
    )
    statuses = [NO_RESPONSE_STATUS] * count

    def record_status(outcome: Outcome) -> None:
        statuses[outcome.index] = outcome.status or NO_RESPONSE_STATUS

    reservation.reserve_items(count)
    run = service.runner.open_run(batch)
    summary = await run_until_disconnect(request.receive, service.runner.run(batch, record_status, run))
    message = f"{summary.succeeded} of {count} requests succeeded, sent {how}, in {run.elapsed_s:.2f} s"
    return ClassicResponse(message, statuses)


def _parse_count(name: str, text: str, maximum: int) -> int:
    if not _match_integer(text) or not 1 <= int(text) <= maximum:
        raise Invalid(f"{name} must be a whole number from 1 to {maximum}; correct it", field=name)
    return int(text)
