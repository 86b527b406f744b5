"""Work for a caller ends with the caller, whatever else happens at the same time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from paceline.api.disconnect import run_until_disconnect
from paceline.api.errors import ClientDisconnected
from support.virtual_clock import virtual_time


class Connection:
    """A caller that leaves after so many seconds."""

    def __init__(self, leaves_after_s: float) -> None:
        self._leaves_after_s = leaves_after_s
        self.is_watched = False

    async def receive(self) -> dict[str, Any]:
        self.is_watched = True
        try:
            await asyncio.sleep(self._leaves_after_s)
        finally:
            self.is_watched = False
        return {"type": "http.disconnect"}


class Work:
    """Something that takes a time and cleans up after itself."""

    def __init__(self, takes_s: float, cleans_up_s: float = 0.0) -> None:
        self._takes_s = takes_s
        self._cleans_up_s = cleans_up_s
        self.is_clean = False

    async def run(self) -> str:
        try:
            await asyncio.sleep(self._takes_s)
        finally:
            await asyncio.sleep(self._cleans_up_s)
            self.is_clean = True
        return "done"


@virtual_time
async def test_work_that_ends_first_gives_its_result_and_the_watch_ends():
    connection = Connection(10)
    assert await run_until_disconnect(connection.receive, Work(5).run()) == "done"
    assert not connection.is_watched
    await asyncio.sleep(20)  # and nothing cancels the caller of it afterwards
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@virtual_time
async def test_a_caller_that_leaves_ends_the_work_after_its_cleanup():
    work = Work(60, cleans_up_s=3)
    with pytest.raises(ClientDisconnected):
        await run_until_disconnect(Connection(5).receive, work.run())
    assert work.is_clean
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(1)


@virtual_time
async def test_an_error_of_the_work_is_let_through():
    async def breaks() -> None:
        await asyncio.sleep(1)
        raise ValueError("broken")

    connection = Connection(10)
    with pytest.raises(ValueError, match="broken"):
        await run_until_disconnect(connection.receive, breaks())
    assert not connection.is_watched


@virtual_time
async def test_a_cancellation_from_outside_stays_one():
    connection, work = Connection(60), Work(60, cleans_up_s=1)
    task = asyncio.create_task(run_until_disconnect(connection.receive, work.run()))
    await asyncio.sleep(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.is_clean
    assert not connection.is_watched


@virtual_time
async def test_a_cancellation_from_outside_wins_over_the_caller_that_left():
    task = asyncio.create_task(run_until_disconnect(Connection(5).receive, Work(60, cleans_up_s=10).run()))
    await asyncio.sleep(7)  # the caller has left, and the work cleans up
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@virtual_time
async def test_a_timeout_around_it_is_still_a_timeout():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await run_until_disconnect(Connection(60).receive, Work(60).run())
    with pytest.raises(ClientDisconnected):
        async with asyncio.timeout(60):
            await run_until_disconnect(Connection(5).receive, Work(90).run())


@pytest.mark.parametrize("takes_s", [5.0, 4.999999999, 5.000000001])
@virtual_time
async def test_a_caller_that_leaves_as_the_work_ends_leaves_no_cancellation_behind(takes_s: float):
    with suppress(ClientDisconnected):
        assert await run_until_disconnect(Connection(5).receive, Work(takes_s).run()) == "done"
    for _ in range(5):
        await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@virtual_time
async def test_work_that_swallows_its_cancellation_leaves_none_behind():
    async def stubborn() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return "done"

    with pytest.raises(ClientDisconnected):
        await run_until_disconnect(Connection(5).receive, stubborn())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
