"""The deadline layer: when an item ends, and with which error."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from msgspec.structs import replace

from paceline.errors import DeadlineExceeded
from paceline.model import Receipt, Request, Response
from paceline.resilience.deadline import DeadlineLayer
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
