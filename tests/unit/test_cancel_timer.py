"""The timer that cancels a block: whose cancellation it was."""

from __future__ import annotations

import asyncio
import time

import pytest

from paceline.errors import ProtocolError
from paceline.resilience.cancel_timer import CancelTimer
from support.virtual_clock import virtual_time


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


@virtual_time
async def test_what_follows_an_alarm_runs_only_if_it_rang():
    with CancelTimer(1.0):
        await asyncio.sleep(5.0)
        raise AssertionError("it was not ended")
    assert time.perf_counter() == pytest.approx(1001.0)
    assert cancelling() == 0


@virtual_time
async def test_an_alarm_that_did_not_ring_leaves_no_timer_behind():
    with CancelTimer(1.0):
        await asyncio.sleep(0.5)
    await asyncio.sleep(5.0)
    assert cancelling() == 0


@virtual_time
async def test_somebody_elses_cancellation_travels_even_when_the_alarm_rings_with_it():
    async def body() -> None:
        with CancelTimer(1.0):
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(1.0, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


@virtual_time
async def test_an_error_on_the_way_out_is_not_hidden_by_the_alarm():
    async def body() -> None:
        with CancelTimer(1.0):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ProtocolError("broke as it was closed") from None

    with pytest.raises(ProtocolError):
        await body()
    assert cancelling() == 0


@virtual_time
async def test_two_alarms_at_one_moment_end_both_blocks():
    with CancelTimer(1.0):
        with CancelTimer(1.0):
            await asyncio.Event().wait()
        raise AssertionError("the outer alarm rang as well")
    assert cancelling() == 0
