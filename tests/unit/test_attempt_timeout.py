"""The attempt timeout layer: when an attempt ends, and with which error."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from msgspec.structs import replace

from paceline.errors import AttemptTimeout, ItemTimeout
from paceline.model import Receipt, Request, Response
from paceline.resilience.attempt_timeout import AttemptTimeoutLayer
from support.request_factory import build_request
from support.virtual_clock import virtual_time


def request(**fields: Any) -> Request:
    return replace(build_request("http://api.example/"), **fields)


async def forever(_: Request) -> Response:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


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
