"""Whatever is streamed, however its caller reads: nothing is lost and what is kept is bounded, in virtual time."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from paceline.api.batch_responses import StreamingBatchResponse
from paceline.api.content_negotiation import EVENT_STREAM, NDJSON
from paceline.api.load_shedding import LoadShedder
from paceline.app import Service
from paceline.model import Batch, Item, Rate, Strategy, Tenant
from support.hypothesis_profiles import examples
from support.in_memory_upstream import InMemoryUpstream, in_memory_service, is_idle, respond_with
from support.virtual_clock import virtual_time

ROOM = 60_000
LIMIT = 3
LARGEST = 15_000
"""A body that is looked through at once, so that nothing but calls in flight comes on top of the room."""
PATIENT_S = 900.0
"""More than all stalls together: nothing may be late then."""
LINE = LARGEST + 2_000
TICK_S = 0.0625
"""Moments a float tells exactly: on a clock that stands still between them aiolimiter would wait for a rounding."""
STRATEGY_FIELDS: dict[Strategy, dict[str, Any]] = {
    Strategy.SEQUENTIAL: {},
    Strategy.CONCURRENT: {},
    Strategy.BOUNDED: {"max_concurrency": 2},
    Strategy.TOKEN_BUCKET: {"max_concurrency": 4, "rate": Rate(64, 1.0, 8)},
    Strategy.ADAPTIVE: {"rate": Rate(64, 1.0, 8)},
}


class Caller:
    """Reads what is sent to it, after a stall before each read; counts the most that was kept for all of them."""

    def __init__(self, stalls: list[float]) -> None:
        self._stalls = stalls
        self.text = b""

    async def receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def send(self, message: Message) -> None:
        if self._stalls:
            await asyncio.sleep(self._stalls.pop())
        self.text += message.get("body", b"")

    def said(self) -> list[Any]:
        lines = (line.removeprefix(b"data: ") for line in self.text.split(b"\n"))
        return [json.loads(line) for line in lines if line.startswith(b"{")]

    def unanswered(self) -> int:
        """Bytes of the outcomes of items that had no answer: they end whenever they must, and have no body."""
        framed = len("event: item\ndata: \n\n")
        return sum(len(line) + framed for line in self.text.split(b"\n") if b'"status":null' in line)


class RecordingLoadShedder(LoadShedder):
    """An intake that remembers the most it held; a subclass because each change is told to it."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self.start_accepting()

    def update_response_memory(self) -> None:
        assert self.usage.response_bytes >= 0
        self.most = max(self.most, self.usage.response_bytes)
        super().update_response_memory()


STALLS = st.lists(st.sampled_from([0.0, 0.0, TICK_S, 1.0, 7.0]), max_size=30)
SIZES = st.lists(st.sampled_from([0, 1_000, 9_000, LARGEST, LARGEST]), min_size=1, max_size=30)


@examples(50)
@given(
    sizes=SIZES,
    stalls=st.lists(STALLS, min_size=1, max_size=3),
    needs=st.lists(st.integers(0, 29), max_size=30),
    strategy=st.sampled_from(list(STRATEGY_FIELDS)),
    halt=st.booleans(),
    failing=st.booleans(),
    deadline_s=st.sampled_from([0.3, 4.0, PATIENT_S]),
    form=st.sampled_from([NDJSON, EVENT_STREAM]),
    whole=st.booleans(),
)
@virtual_time
async def test_each_item_is_told_once_and_whole_and_what_is_kept_is_bounded(
    sizes: list[int],
    stalls: list[list[float]],
    needs: list[int],
    strategy: Strategy,
    halt: bool,
    failing: bool,
    deadline_s: float,
    form: str,
    whole: bool,
):
    upstream = InMemoryUpstream()
    for index, size in enumerate(sizes):
        status = 404 if failing and index == len(sizes) // 2 else 200
        upstream.script_path(
            f"/{index}", respond_with(status, ("content-type", "text/plain"), body=b"x" * size, after_s=TICK_S)
        )
    items = [
        Item(upstream="api", path=f"/{index}", depends_on=[str(need)] if need < index else [])
        for index, need in zip(range(len(sizes)), [*needs, *[29] * 30], strict=False)
    ]
    batch = Batch(items, strategy=strategy, deadline_s=deadline_s, halt=halt, **STRATEGY_FIELDS[strategy])
    config = {"server": {"max_items": 30, "max_in_flight_items": 30 if whole else 90, "max_batch_response": ROOM}}
    callers = [Caller(list(each)) for each in stalls]
    intake = RecordingLoadShedder()
    with in_memory_service(upstream, config=config, concurrency={"limit": LIMIT}, retry={"attempts": 1}) as service:
        await asyncio.gather(*(streamed(service, intake, batch, caller, form) for caller in callers))
        assert is_idle(service)
        assert service.runner.active_batches == 0
    assert intake.usage.response_bytes == 0
    assert not intake.response_memory_listeners
    # What was in flight when it was full, and the call that took the place of the one which filled it.
    beyond = (LIMIT + 1) * LINE
    of_service = (ROOM if whole else 3 * ROOM) + beyond
    of_each = len(callers) * (ROOM + beyond)
    assert intake.most <= min(of_service, of_each) + sum(caller.unanswered() for caller in callers)
    for caller in callers:
        check(caller.said(), sizes, deadline_s)


@pytest.mark.parametrize("strategy", STRATEGY_FIELDS)
@virtual_time
async def test_a_caller_that_stalls_gets_everything_and_no_other_waits_for_it(strategy: Strategy):
    upstream = InMemoryUpstream(
        default=respond_with(200, ("content-type", "text/plain"), body=b"x" * LARGEST, after_s=TICK_S)
    )
    items = [Item(upstream="api", path="/") for _ in range(30)]
    batch = Batch(items, strategy=strategy, deadline_s=PATIENT_S, **STRATEGY_FIELDS[strategy])
    config = {"server": {"max_items": 30, "max_in_flight_items": 90, "max_batch_response": ROOM}}
    slow, quick, intake = Caller([7.0] * 100), Caller([]), RecordingLoadShedder()
    with in_memory_service(upstream, config=config, concurrency={"limit": LIMIT}) as service:
        stalling = asyncio.create_task(streamed(service, intake, batch, slow, NDJSON))
        await asyncio.sleep(20.0)
        assert ROOM <= intake.usage.response_bytes <= ROOM + (LIMIT + 1) * LINE
        assert nobody_is_in_flight(service)
        began_at = time.perf_counter()
        await streamed(service, intake, batch, quick, NDJSON)
        assert time.perf_counter() - began_at < 30 * TICK_S + 0.1
        await stalling
        assert is_idle(service)
    check(slow.said(), [LARGEST] * 30, PATIENT_S)
    check(quick.said(), [LARGEST] * 30, PATIENT_S)
    assert len(upstream.sent) == 60


@virtual_time
async def test_who_is_held_as_the_service_is_full_goes_on_when_another_has_read():
    """It keeps nothing itself by then, so nothing of its own would tell it."""
    body, kind = b"x" * LARGEST, ("content-type", "text/plain")
    upstream = InMemoryUpstream(default=respond_with(200, kind, body=body, after_s=TICK_S))
    upstream.script_path("/slow", respond_with(200, kind, body=body, after_s=5.0))
    full = Batch([Item(upstream="api", path="/") for _ in range(30)], deadline_s=PATIENT_S)
    small = Batch([Item(upstream="api", path="/slow") for _ in range(2)], Strategy.SEQUENTIAL, deadline_s=PATIENT_S)
    config = {"server": {"max_items": 30, "max_in_flight_items": 30, "max_batch_response": ROOM}}
    stalled, other, intake = Caller([0.0] * 50 + [60.0, 0.0]), Caller([]), RecordingLoadShedder()
    with in_memory_service(upstream, config=config, concurrency={"limit": LIMIT}) as service:
        first = asyncio.create_task(streamed(service, intake, full, stalled, NDJSON))
        began_at = time.perf_counter()
        await streamed(service, intake, small, other, NDJSON)
        assert 60.0 <= time.perf_counter() - began_at < 66.0
        await first
    check(other.said(), [LARGEST] * 2, PATIENT_S)
    check(stalled.said(), [LARGEST] * 30, PATIENT_S)


def nobody_is_in_flight(service: Service) -> bool:
    return all(upstream.async_gate.gate.in_flight == 0 for upstream in service.registry)


async def streamed(service: Service, intake: LoadShedder, batch: Batch, caller: Caller, form: str) -> None:
    limits = service.config.server
    with intake.reserve(Tenant(), limits) as place:
        response = StreamingBatchResponse(service.runner, batch, place, limits.max_batch_response, form)
        await response({}, caller.receive, caller.send)


def check(said: list[Any], sizes: list[int], deadline_s: float) -> None:
    *outcomes, last = said
    assert sorted(outcome["index"] for outcome in outcomes) == list(range(len(sizes)))
    assert last["summary"]["total"] == len(sizes)
    assert last["summary"]["succeeded"] == sum(outcome["outcome"] == "success" for outcome in outcomes)
    for outcome in outcomes:
        assert outcome["outcome"] != "too_large"
        if outcome["status"] is not None:
            assert len(outcome["body"] or "") == sizes[outcome["index"]]
        ended_ms = outcome["timing"]["start_ms"] + outcome["timing"]["total_ms"]
        assert ended_ms <= deadline_s * 1000 + 100, outcome
        if outcome["outcome"] == "deadline_exceeded":
            assert deadline_s < PATIENT_S
            assert ended_ms >= deadline_s * 1000 - 1
