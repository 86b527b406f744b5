"""`GET /v1/strategies`: what a batch may say under `strategy`, and what that does."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from paceline.api.accept import JSON
from paceline.api.core import Core
from paceline.model import Strategy
from paceline.upstream.pipeline import DEFAULT_CONCURRENCY


class Parameter(Struct, frozen=True):
    """A field of the batch that the strategy listens to."""

    name: str
    required: bool
    default: int | None
    description: str


class Described(Struct, frozen=True):
    """One strategy; `layers` is what each attempt passes, outermost first."""

    name: Strategy
    default: bool
    description: str
    layers: list[str]
    parameters: list[Parameter]


class StrategyList(Struct, frozen=True):
    """What `GET /v1/strategies` gives."""

    strategies: list[Described]


_OUTER, _INNER = ["deadline", "retry"], ["admission", "attempt timeout", "send"]
_CAP = Parameter("max_concurrency", False, DEFAULT_CONCURRENCY, "calls of this batch in flight")
_OWN_CAP = Parameter("max_concurrency", False, None, "a cap of this batch's own on its calls in flight")
_RATE = Parameter("rate", True, None, "what the bucket lets through")
_OWN_RATE = Parameter("rate", False, None, "a rate window of this batch's own, besides the upstream's")

STRATEGIES = StrategyList(
    [
        Described(
            Strategy.ADAPTIVE,
            True,
            "as fast as the upstream allows and no faster: paced to its windows, paused by its throttles, fair to "
            "other callers",
            [*_OUTER, *_INNER],
            [_OWN_CAP, _OWN_RATE],
        ),
        Described(Strategy.SEQUENTIAL, False, "one item after another", [*_OUTER, *_INNER], []),
        Described(Strategy.CONCURRENT, False, "all items at once", [*_OUTER, *_INNER], []),
        Described(
            Strategy.BOUNDED,
            False,
            "all at once under a semaphore, which bounds concurrency and knows no rate",
            [*_OUTER, "semaphore", *_INNER],
            [_CAP],
        ),
        Described(
            Strategy.TOKEN_BUCKET,
            False,
            "a semaphore and a token bucket of the batch's own rate",
            [*_OUTER, "semaphore", "token bucket", *_INNER],
            [_RATE, _CAP],
        ),
    ]
)


def add_routes(app: FastAPI, core: Core) -> None:
    answer = msgspec.json.encode(STRATEGIES)

    @app.get("/v1/strategies", response_model=None)
    async def strategies(request: Request) -> Response:
        return Response(answer, media_type=JSON)
