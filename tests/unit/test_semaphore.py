"""The batch's own cap: hard, first come first served, and whole again after every kind of end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from paceline.errors import ProtocolError
from paceline.model import Request, Response
from paceline.resilience.semaphore import SemaphoreLayer
from support.request_factory import build_request
from support.virtual_clock import virtual_time


class Inside:
    """What the cap lets in: it counts, and ends as the test says."""

    def __init__(self, ends: Callable[[], Awaitable[None]]) -> None:
        self.now = self.most = self.all = 0
        self._ends = ends

    async def __call__(self, request: Request) -> Response:
        self.now += 1
        self.all += 1
        self.most = max(self.most, self.now)
        try:
            await self._ends()
        finally:
            self.now -= 1
        return Response(200, (), b"")


async def a_second() -> None:
    await asyncio.sleep(1.0)


async def breaks() -> None:
    raise ProtocolError("broken", sent=True)


@virtual_time
async def test_no_more_than_the_cap_are_inside():
    cap, inside = SemaphoreLayer(3), Inside(a_second)
    requests = [build_request(f"http://api.example/{number}") for number in range(9)]
    await asyncio.gather(*(cap(request, inside) for request in requests))
    assert inside.most == 3
    waits = [request.receipt.queue_s for request in requests]
    assert waits == pytest.approx([0, 0, 0, 1, 1, 1, 2, 2, 2])


@virtual_time
async def test_an_error_inside_gives_the_place_back():
    cap = SemaphoreLayer(1)
    for _ in range(3):
        with pytest.raises(ProtocolError):
            await cap(build_request("http://api.example/"), Inside(breaks))
    assert (await cap(build_request("http://api.example/"), Inside(a_second))).status == 200


@virtual_time
async def test_cancelled_inside_or_while_waiting_a_place_is_not_lost():
    cap, inside = SemaphoreLayer(2), Inside(a_second)
    tasks = [asyncio.create_task(cap(build_request("http://api.example/"), inside)) for _ in range(6)]
    await asyncio.sleep(0.5)
    tasks[0].cancel()  # inside
    tasks[3].cancel()  # waiting
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, Response) for each in done] == [False, True, True, False, True, True]
    assert inside.most == 2
    again = Inside(a_second)
    await asyncio.gather(*(cap(build_request("http://api.example/"), again) for _ in range(4)))
    assert again.most == 2


@virtual_time
async def test_cancelled_in_the_turn_its_place_came_free_it_passes_the_place_on():
    cap, inside = SemaphoreLayer(1), Inside(a_second)
    first = asyncio.create_task(cap(build_request("http://api.example/"), inside))
    await asyncio.sleep(0.5)
    second, third = (asyncio.create_task(cap(build_request("http://api.example/"), inside)) for _ in range(2))
    first.add_done_callback(lambda _: second.cancel())
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert second.cancelled()
    assert third.result().status == 200


@virtual_time
async def test_a_wait_that_was_cancelled_is_on_the_receipt():
    cap = SemaphoreLayer(1)
    first = asyncio.create_task(cap(build_request("http://api.example/"), Inside(a_second)))
    await asyncio.sleep(0)
    request = build_request("http://api.example/")
    second = asyncio.create_task(cap(request, Inside(a_second)))
    await asyncio.sleep(0.25)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert request.receipt.queue_s == pytest.approx(0.25)
