"""The token bucket of the `token_bucket` strategy: aiolimiter enforces the batch's own rate."""

from __future__ import annotations

import time

from aiolimiter import AsyncLimiter

from paceline.errors import InvalidRequest
from paceline.model import Rate, Request, Response, Send
from paceline.units import format_seconds


class TokenBucketLayer:
    """Release a batch's attempts at its own rate; the last wait before admission, so that no token is taken early.

    aiolimiter's burst equals its `max_rate`, so it gets `(burst, burst / rate)`. A cost above the burst is taken in
    pieces.
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._limiter = AsyncLimiter(rate.burst, rate.burst * rate.per_s / rate.limit)

    async def __call__(self, request: Request, call_next: Send) -> Response:
        cost = request.cost["requests"]
        if cost > self._rate.limit:
            raise InvalidRequest(
                f"cost {cost:g} is above the batch's own rate of {self._rate.limit:g} "
                f"per {format_seconds(self._rate.per_s)}: it can never be paid; lower the cost or raise the rate"
            )
        began_at = time.perf_counter()
        try:
            while cost > 0:
                piece = min(cost, self._rate.burst)
                await self._limiter.acquire(piece)
                cost -= piece
        finally:
            request.receipt.rate_wait_s += time.perf_counter() - began_at
        return await call_next(request)
