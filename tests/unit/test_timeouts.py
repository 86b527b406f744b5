"""Time limits: whose cancellation it was, and which error it becomes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from msgspec.structs import replace

from paceline.errors import AttemptTimeout, DeadlineExceeded, ItemTimeout, ProtocolError
from paceline.model import Receipt, Request, Response
from paceline.resilience.timeouts import AttemptTimeoutLayer, CancelTimer, DeadlineLayer
from support.request_factory import build_request
from support.virtual_clock import virtual_time

OK = Response(200, (), b"")


def request(**fields: Any) -> Request:
    return replace(build_request("http://api.example/"), **fields)


async def forever(_: Request) -> Response:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def at_once(_: Request) -> Response:
    return OK


def never() -> bool:
    return False


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


@virtual_time
async def test_an_item_past_its_deadline_does_not_start():
    with pytest.raises(DeadlineExceeded) as caught:
        await DeadlineLayer(never)(request(deadline=time.perf_counter()), at_once)
    assert caught.value.sent is False


@virtual_time
async def test_the_deadline_ends_an_item_and_tells_whether_it_was_sent():
    for sent in (False, True):
        began_at = time.perf_counter()
        with pytest.raises(DeadlineExceeded) as caught:
            await DeadlineLayer(never)(request(deadline=began_at + 3.0, receipt=Receipt(sent=sent)), forever)
        assert time.perf_counter() - began_at == pytest.approx(3.0)
        assert caught.value.sent is sent


@virtual_time
async def test_within_the_deadline_the_answer_comes_through():
    assert await DeadlineLayer(never)(request(deadline=time.perf_counter() + 1.0), at_once) is OK


@pytest.mark.parametrize(
    ("fields", "spent", "error", "after_s"),
    [
        ({"attempt_timeout_s": 10.0, "timeout_s": 30.0}, {}, AttemptTimeout, 10.0),
        ({"attempt_timeout_s": 10.0, "timeout_s": 5.0}, {}, ItemTimeout, 5.0),
        ({"attempt_timeout_s": 10.0, "timeout_s": 30.0}, {"upstream_s": 20.0, "backoff_s": 7.0}, ItemTimeout, 3.0),
        (
            {"attempt_timeout_s": 10.0, "timeout_s": 30.0},
            {"queue_s": 90.0, "rate_wait_s": 90.0, "pause_s": 90.0},
            AttemptTimeout,
            10.0,
        ),
        ({"attempt_timeout_s": 10.0, "timeout_s": 30.0}, {"upstream_s": 31.0}, ItemTimeout, 0.0),
    ],
)
@virtual_time
async def test_an_attempt_ends_at_its_own_timeout_or_at_what_is_left_of_the_items(
    fields: dict[str, float], spent: dict[str, float], error: type[Exception], after_s: float
):
    began_at = time.perf_counter()
    with pytest.raises(error):
        await AttemptTimeoutLayer()(request(receipt=Receipt(**spent), **fields), forever)
    assert time.perf_counter() - began_at == pytest.approx(after_s)


@virtual_time
async def test_a_timeout_tells_whether_the_request_was_written():
    async def written(sent: Request) -> Response:
        sent.exchange.mark_written(time.perf_counter())
        return await forever(sent)

    for call_next, expected in ((forever, False), (written, True)):
        with pytest.raises(AttemptTimeout) as caught:
            await AttemptTimeoutLayer()(request(), call_next)
        assert caught.value.sent is expected
