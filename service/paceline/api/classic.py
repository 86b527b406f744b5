"""The three classic forms, as they are usually written: httpx, one attempt a request, no more policy than their own.

They call `compare.target`, through the same runner as everything else, so what an operator declared binds them too.
"""

from __future__ import annotations

import re

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.accept import JSON
from paceline.api.caller import unless_gone
from paceline.api.comparisons import upstream_of
from paceline.api.core import Core, tenant_of
from paceline.api.errors import Invalid, NoTarget
from paceline.api.fields import DEFAULT_DEADLINE_S, MOST, lowered
from paceline.api.held import held
from paceline.api.intake import Place
from paceline.api.schemas import ClassicAnswer
from paceline.model import Batch, Item, ItemRetry, Outcome, Priority, Strategy

NO_ANSWER = 0
"""In place of the status of a request that got none."""

_WHOLE = re.compile(r"[0-9]{1,10}").fullmatch


def add_routes(app: FastAPI, core: Core) -> None:
    encode = msgspec.json.Encoder().encode

    async def run(request: Request, place: Place, strategy: Strategy, words: str) -> Response:
        limits = core.config.server
        target = core.config.compare.target
        count = _whole(request, "num_requests", limits.max_items)
        cap = _whole(request, "max_concurrent", MOST) if strategy is Strategy.BOUNDED else None
        if target is None:
            raise NoTarget("there is nothing to call; set compare.target, as in {upstream: name, path: /get}")
        item = Item(upstream=target.upstream, path=target.path)
        tenant = tenant_of(request.scope)
        upstream_of(item, core.registry, tenant)
        batch = Batch(
            items=[item] * count,
            strategy=strategy,
            max_concurrency=cap,
            deadline_s=min(DEFAULT_DEADLINE_S, limits.max_deadline),
            priority=lowered(Priority.NORMAL, tenant),
            retry=ItemRetry(attempts=1),
            tenant=tenant,
            engine="httpx",
        )
        statuses = [NO_ANSWER] * count

        def note(outcome: Outcome) -> None:
            statuses[outcome.index] = outcome.status or NO_ANSWER

        place.hold_items(count)
        opened = core.runner.open(batch)
        summary = await unless_gone(request.receive, core.runner.run(batch, note, opened))
        message = f"{summary.succeeded} of {count} requests succeeded, sent {words}, in {opened.elapsed_s:.2f} s"
        return Response(encode(ClassicAnswer(message, statuses)), media_type=JSON)

    async def sync(request: Request, place: Place) -> Response:
        return await run(request, place, Strategy.SEQUENTIAL, "one after another")

    async def all_at_once(request: Request, place: Place) -> Response:
        return await run(request, place, Strategy.CONCURRENT, "all at once")

    async def under_a_semaphore(request: Request, place: Place) -> Response:
        words = f"at most {request.path_params['max_concurrent']} at a time"
        return await run(request, place, Strategy.BOUNDED, words)

    for path, answer in (
        ("/sync/{num_requests}", sync),
        ("/async/{num_requests}", all_at_once),
        ("/async_sem/{num_requests}/{max_concurrent}", under_a_semaphore),
    ):
        app.get(path, response_model=None)(held(core, answer))


def _whole(request: Request, name: str, most: int) -> int:
    text = request.path_params[name]
    if not _WHOLE(text) or not 1 <= int(text) <= most:
        raise Invalid(f"{name} must be a whole number from 1 to {most}; correct it", field=name)
    return int(text)
