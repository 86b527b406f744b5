"""The batch's own rate under `token_bucket`: burst, beat, costs, and what a cancelled wait leaves.

Rates are powers of two: where a beat is no exact float aiolimiter's timer may ring a rounding error early, and it then
asks again at once until the clock has moved on, which a virtual one never does.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec.structs import replace

from paceline.errors import InvalidRequest
from paceline.model import Rate, Request, Response
from paceline.rate.token_bucket import TokenBucketLayer
from support.request_factory import build_request
from support.virtual_clock import virtual_time


class Gone:
    """When each request came out of the bucket, from the start."""

    def __init__(self) -> None:
        self._began_at = time.perf_counter()
        self.times: list[float] = []

    async def __call__(self, request: Request) -> Response:
        self.times.append(time.perf_counter() - self._began_at)
        return Response(200, (), b"")


def costing(cost: float) -> Request:
    return replace(build_request("http://api.example/"), cost={"requests": cost})


@virtual_time
async def test_the_burst_goes_at_once_and_the_rest_on_the_beat():
    gone = Gone()
    bucket = TokenBucketLayer(Rate(8, 1.0, 3))
    await asyncio.gather(*(bucket(build_request("http://api.example/"), gone) for _ in range(8)))
    assert gone.times == pytest.approx([0, 0, 0, 0.125, 0.25, 0.375, 0.5, 0.625])


@virtual_time
async def test_a_burst_of_one_is_an_even_beat_and_the_wait_is_on_the_receipt():
    gone = Gone()
    bucket = TokenBucketLayer(Rate(120, 60.0, 1))
    requests = [build_request("http://api.example/") for _ in range(4)]
    await asyncio.gather(*(bucket(request, gone) for request in requests))
    assert gone.times == pytest.approx([0, 0.5, 1.0, 1.5])
    assert [request.receipt.rate_wait_s for request in requests] == pytest.approx(gone.times)


@virtual_time
async def test_a_cost_above_the_burst_is_paid_in_pieces():
    gone = Gone()
    bucket = TokenBucketLayer(Rate(8, 1.0, 2))
    await bucket(costing(5.0), gone)
    await bucket(costing(2.5), gone)
    assert gone.times == pytest.approx([0.375, 0.6875])


@virtual_time
async def test_a_cost_that_can_never_be_paid_is_refused():
    with pytest.raises(InvalidRequest, match=r"cost 11 .* 10 per 1 s"):
        await TokenBucketLayer(Rate(10, 1.0, 2))(costing(11.0), Gone())


@virtual_time
async def test_a_cancelled_wait_takes_no_token_and_is_on_the_receipt():
    gone = Gone()
    bucket = TokenBucketLayer(Rate(1, 1.0, 1))
    request = build_request("http://api.example/")
    await bucket(build_request("http://api.example/"), gone)
    waiting = asyncio.create_task(bucket(request, gone))
    await asyncio.sleep(0.4)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await bucket(build_request("http://api.example/"), gone)
    assert gone.times == pytest.approx([0.0, 1.0])
    assert request.receipt.rate_wait_s == pytest.approx(0.4)
