"""`GET /v1/strategies`: the values of `strategy`, and what each does."""

from __future__ import annotations

from fastapi import APIRouter

from paceline.api.schemas.responses import StrategyDescription, StrategyList, StrategyParameter
from paceline.model import Strategy
from paceline.upstream.pipeline import DEFAULT_CONCURRENCY

router = APIRouter(tags=["strategies"])

_OUTER_LAYERS, _INNER_LAYERS = ["deadline", "retry"], ["admission", "attempt timeout", "send"]
_CONCURRENCY_PARAMETER = StrategyParameter(
    "max_concurrency", False, DEFAULT_CONCURRENCY, "calls of this batch in flight"
)
_OPTIONAL_CONCURRENCY_PARAMETER = StrategyParameter(
    "max_concurrency", False, None, "a cap of this batch's own on its calls in flight"
)
_RATE_PARAMETER = StrategyParameter("rate", True, None, "what the bucket lets through")
_OPTIONAL_RATE_PARAMETER = StrategyParameter(
    "rate", False, None, "a rate window of this batch's own, besides the upstream's"
)

STRATEGIES = StrategyList(
    [
        StrategyDescription(
            Strategy.ADAPTIVE,
            True,
            "as fast as the upstream allows and no faster: paced to its windows, paused by its throttles, fair to "
            "other callers",
            [*_OUTER_LAYERS, *_INNER_LAYERS],
            [_OPTIONAL_CONCURRENCY_PARAMETER, _OPTIONAL_RATE_PARAMETER],
        ),
        StrategyDescription(Strategy.SEQUENTIAL, False, "one item after another", [*_OUTER_LAYERS, *_INNER_LAYERS], []),
        StrategyDescription(Strategy.CONCURRENT, False, "all items at once", [*_OUTER_LAYERS, *_INNER_LAYERS], []),
        StrategyDescription(
            Strategy.BOUNDED,
            False,
            "all at once under a semaphore, which bounds concurrency and knows no rate",
            [*_OUTER_LAYERS, "semaphore", *_INNER_LAYERS],
            [_CONCURRENCY_PARAMETER],
        ),
        StrategyDescription(
            Strategy.TOKEN_BUCKET,
            False,
            "a semaphore and a token bucket of the batch's own rate",
            [*_OUTER_LAYERS, "semaphore", "token bucket", *_INNER_LAYERS],
            [_RATE_PARAMETER, _CONCURRENCY_PARAMETER],
        ),
    ]
)


@router.get(
    "/v1/strategies",
    operation_id="strategies",
    summary="The strategies, and what each is made of.",
    response_description="The strategies.",
)
async def list_strategies() -> StrategyList:
    """What a batch may say under `strategy`, and what each of them does."""
    return STRATEGIES
