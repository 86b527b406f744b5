"""Nothing outlives its time, over real sockets and whatever the upstream does with it.

`make test` sees that it ends, and as what. `make verify` measures by how much too late: against a bare timer of the
same length that is started with it, so that a machine which is late is late for both. 100 ms are allowed, in the best
of three tries.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from paceline.app import Service
from paceline.config import Config
from paceline.model import Batch, EngineName, Item, Outcome, Strategy
from support.in_memory_upstream import is_idle, outcome_codes, run_batch
from tools.fault_proxy import Fault, FaultProxy, Phase
from tools.scripted_upstream import (
    Handler,
    Peer,
    ReceivedRequest,
    ScriptedUpstream,
    drip_body,
    never_respond,
    response_head,
    send_early_hints,
)

PROMISED_S = 0.1
TRIES = 3
HANGS_S = 10.0
SHORT_S = 0.25
"""The time that is set; every other one is `LONG`."""
LONG = "20s"
GENEROUS = {"dns": LONG, "connect": LONG, "attempt": LONG, "item": LONG}
NO_LIMITS: dict[str, Any] = {"retry": {"attempts": 2}, "timeout": GENEROUS}


Work = Callable[[], Awaitable[list[Outcome]]]
Within = Callable[[float, Work], Awaitable[list[Outcome]]]


async def ends(limit_s: float, work: Work) -> list[Outcome]:
    """What `work` gives; it neither ends before its time nor hangs."""
    began_at = time.perf_counter()
    async with asyncio.timeout(HANGS_S):
        outcomes = await work()
    assert time.perf_counter() - began_at >= limit_s - 0.01
    return outcomes


async def in_time(limit_s: float, work: Work) -> list[Outcome]:
    """What `work` gives; it outlives a bare timer of the same length by no more than what is promised."""
    least = 1 + PROMISED_S / limit_s
    ratios: list[float] = []
    for _ in range(TRIES):
        outcomes, took_s, bare_s = await beside_a_timer(limit_s, work)
        ratios.append(took_s / bare_s)
        if ratios[-1] <= least:
            return outcomes
    raise AssertionError(f"{ratios} of what a bare timer of {limit_s} s takes; {least:.2f} are promised")


async def beside_a_timer(limit_s: float, work: Work) -> tuple[list[Outcome], float, float]:
    async def bare() -> float:
        await asyncio.sleep(limit_s)
        return time.perf_counter() - began_at

    began_at = time.perf_counter()
    timer = asyncio.create_task(bare())
    outcomes = await work()
    took_s = time.perf_counter() - began_at
    return outcomes, took_s, await timer


both_ways = pytest.mark.parametrize(
    "within", [ends, pytest.param(in_time, marks=pytest.mark.verify)], ids=["ends", "in time"]
)


@asynccontextmanager
async def serving(base_url: str, engine: EngineName, **policy: Any) -> AsyncIterator[Service]:
    declared = {"base_url": base_url, "allow_private": True, "engine": engine, **NO_LIMITS, **policy}
    service = Service(Config.model_validate({"upstreams": {"api": declared}}))
    try:
        yield service
        assert is_idle(service)
        assert service.registry._socket_pool.in_flight == 0
    finally:
        await service.close()


def timeouts(**times: float) -> dict[str, str]:
    return {**GENEROUS, **{name: f"{time_s}s" for name, time_s in times.items()}}


def hinting_slowly() -> Handler:
    return send_early_hints(0.02)


def dripping_head() -> Handler:
    async def act(request: ReceivedRequest, peer: Peer) -> None:
        peer.write(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            peer.write(b"y")
            await asyncio.sleep(0.02)

    return act


def dripping_chunks() -> Handler:
    async def act(request: ReceivedRequest, peer: Peer) -> None:
        peer.write(response_head(200, {"transfer-encoding": "chunked"}))
        while True:
            peer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.02)

    return act


def then_silent() -> Handler:
    async def act(request: ReceivedRequest, peer: Peer) -> None:
        peer.write(response_head(200, {"content-length": "10"}) + b"half")
        await peer.wait_closed()

    return act


ANSWERS: dict[str, Callable[[], Handler]] = {
    "silence": never_respond,
    "a dripping head": dripping_head,
    "a dripping body": lambda: drip_body(0.02),
    "dripping chunks": dripping_chunks,
    "half a body": then_silent,
    "early hints": hinting_slowly,
}

each_engine = pytest.mark.parametrize("engine", ["aiohttp", "httpx"])


@both_ways
@each_engine
@pytest.mark.parametrize("which", ["batch", "item", "attempt"])
async def test_an_answer_that_does_not_end_is_ended(
    upstream: ScriptedUpstream, engine: EngineName, which: str, within: Within
):
    """All of them at once."""
    policy: dict[str, Any] = {}
    deadline, code = 50.0, f"{which}_timeout"
    if which == "batch":
        deadline, code = SHORT_S, "deadline_exceeded"
    else:
        policy = {"timeout": timeouts(**{which: SHORT_S}), "retry": {"attempts": 1}}
    async with serving(upstream.url, engine, **policy) as service:

        async def ended(answer: str) -> None:
            path = f"/{answer.replace(' ', '-')}"
            upstream.script(path, ANSWERS[answer]())
            asked = Batch([Item(upstream="api", path=path)] * 3, deadline_s=deadline)
            outcomes = await within(SHORT_S, lambda: run_batch(service, asked))
            assert outcome_codes(outcomes) == [code] * 3, answer
            assert [outcome.error and outcome.error.sent for outcome in outcomes] == [True] * 3

        await asyncio.gather(*map(ended, ANSWERS))
        await upstream.wait_until(lambda it: it.in_progress == 0)  # and its sockets were closed


@both_ways
@each_engine
async def test_an_upload_that_nobody_reads_is_ended(engine: EngineName, within: Within):
    with nobody_reading() as port:
        async with serving(f"http://127.0.0.1:{port}", engine) as service:
            asked = [Item(upstream="api", path="/x", method="POST", body="x" * 8_000_000)]
            outcomes = await within(SHORT_S, lambda: run_batch(service, Batch(asked, deadline_s=SHORT_S)))
            assert outcome_codes(outcomes) == ["deadline_exceeded"]


@both_ways
@each_engine
async def test_a_tls_handshake_that_stalls_is_ended(engine: EngineName, within: Within):
    with nobody_reading() as port:
        await each_ends(f"https://127.0.0.1:{port}", engine, within, "batch", "item", "attempt", "connect")


@both_ways
@each_engine
async def test_a_connection_that_nobody_takes_is_ended(upstream: ScriptedUpstream, engine: EngineName, within: Within):
    async with FaultProxy(upstream.port) as proxy:
        await proxy.inject(Fault.BLACK_HOLE, Phase.CONNECT)
        await each_ends(proxy.url, engine, within, "batch", "item", "attempt", "connect")


@both_ways
@each_engine
async def test_a_lookup_that_hangs_is_ended(engine: EngineName, within: Within, monkeypatch: pytest.MonkeyPatch):
    answered = threading.Event()

    def hung(host: str) -> list[str]:
        answered.wait(30)
        return ["127.0.0.1"]

    monkeypatch.setattr("paceline.transport.resolver._getaddrinfo", hung)
    try:
        await each_ends("http://api.invalid:9", engine, within, "batch", "item", "attempt", "dns")
    finally:
        answered.set()
        await asyncio.sleep(0.05)  # its threads tell the loop, which must still be there


async def each_ends(base_url: str, engine: EngineName, within: Within, *times: str) -> None:
    """What never comes as far as a request ends within each of the times that bound it, and was never sent."""
    codes_of = {
        "batch": "deadline_exceeded",
        "item": "item_timeout",
        "attempt": "attempt_timeout",
        "connect": "connect_failed",
        "dns": "dns_failed",
    }

    async def ended(which: str) -> None:
        policy = {} if which == "batch" else {"timeout": timeouts(**{which: SHORT_S}), "retry": {"attempts": 1}}
        async with serving(base_url, engine, **policy) as service:
            asked = Batch([Item(upstream="api", path="/x")] * 3, deadline_s=SHORT_S if which == "batch" else 50.0)
            outcomes = await within(SHORT_S, lambda: run_batch(service, asked))
            assert outcome_codes(outcomes) == [codes_of[which]] * 3
            assert [outcome.error and outcome.error.sent for outcome in outcomes] == [False] * 3

    await asyncio.gather(*map(ended, times))


@both_ways
@each_engine
async def test_many_at_once_end_together(upstream: ScriptedUpstream, engine: EngineName, within: Within):
    upstream.script("/x", never_respond())
    async with serving(upstream.url, engine, concurrency={"limit": 100}) as service:
        asked = Batch([Item(upstream="api", path="/x")] * 300, deadline_s=1.0)
        assert set(outcome_codes(await within(1.0, lambda: run_batch(service, asked)))) == {"deadline_exceeded"}


@both_ways
@each_engine
@pytest.mark.parametrize("strategy", [Strategy.CONCURRENT, Strategy.BOUNDED, Strategy.ADAPTIVE])
async def test_what_waits_for_its_turn_is_ended(
    upstream: ScriptedUpstream, engine: EngineName, strategy: Strategy, within: Within
):
    upstream.script("/x", never_respond())
    async with serving(upstream.url, engine, concurrency={"limit": 1}) as service:
        asked = Batch([Item(upstream="api", path="/x")] * 3, strategy=strategy, deadline_s=SHORT_S)
        outcomes = await within(SHORT_S, lambda: run_batch(service, asked))
        assert outcome_codes(outcomes) == ["deadline_exceeded"] * 3
        assert sorted(outcome.attempts for outcome in outcomes) == [0, 0, 1]


@both_ways
async def test_what_waits_while_its_upstream_is_paused_is_ended(upstream: ScriptedUpstream, within: Within):
    async with serving(upstream.url, "aiohttp") as service:
        next(iter(service.registry)).async_gate.set_paused(True)
        asked = Batch([Item(upstream="api", path="/x")] * 3, deadline_s=SHORT_S)
        assert outcome_codes(await within(SHORT_S, lambda: run_batch(service, asked))) == ["deadline_exceeded"] * 3


@both_ways
@each_engine
async def test_an_item_s_time_runs_on_over_its_attempts_and_backoffs(
    upstream: ScriptedUpstream, engine: EngineName, within: Within
):
    """Each attempt is short and the upstream answers it; only their sum is too long."""
    upstream.script_response("/x", status=503, delay_s=0.1)
    retry = {"attempts": 50, "base": "1ms", "cap": "1ms", "budget_per_s": 1000}
    async with serving(upstream.url, engine, timeout=timeouts(item=0.55), retry=retry) as service:
        (outcome,) = await within(0.55, lambda: run_batch(service, Batch([Item(upstream="api", path="/x")])))
        assert 2 <= outcome.attempts <= 6


@contextmanager
def nobody_reading() -> Iterator[int]:
    """A port where the system takes connections and nobody ever reads from them."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]
