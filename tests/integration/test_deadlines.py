"""Nothing outlives its time by more than 100 ms, over real sockets and whatever the upstream does with it.

A watch on the test's own loop tells by how much the machine alone was late; that much more is allowed, and no more.
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
from support.fault_proxy import Fault, FaultProxy, Phase
from support.memory import codes, nothing_held, run
from support.scripted import Act, Peer, Received, ScriptedUpstream, dripping, early_hints, head, silent

PROMISED_S = 0.1
SHORT_S = 0.25
"""The time that is set; every other one is `LONG`."""
LONG = "20s"
GENEROUS = {"dns": LONG, "connect": LONG, "attempt": LONG, "item": LONG}
NO_LIMITS: dict[str, Any] = {"retry": {"attempts": 2}, "timeout": GENEROUS}


class Lateness:
    """How late the loop was at worst, for want of CPU, while the context was open."""

    def __init__(self) -> None:
        self.worst_s = 0.0

    async def __aenter__(self) -> Lateness:
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            due = time.perf_counter() + 0.005
            await asyncio.sleep(0.005)
            self.worst_s = max(self.worst_s, time.perf_counter() - due)


async def within(limit_s: float, work: Awaitable[list[Outcome]]) -> list[Outcome]:
    """What `work` gives; it must neither end before its time nor outlive it."""
    async with Lateness() as lateness:
        began_at = time.perf_counter()
        outcomes = await work
        took_s = time.perf_counter() - began_at
    assert limit_s - 0.01 <= took_s <= limit_s + PROMISED_S + 2 * lateness.worst_s, (took_s, lateness.worst_s)
    return outcomes


@asynccontextmanager
async def serving(base_url: str, engine: EngineName, **policy: Any) -> AsyncIterator[Service]:
    declared = {"base_url": base_url, "allow_private": True, "engine": engine, **NO_LIMITS, **policy}
    service = Service(Config.model_validate({"upstreams": {"api": declared}}))
    try:
        yield service
        assert nothing_held(service)
        assert service.registry._sockets.in_flight == 0
    finally:
        await service.close()


def timeouts(**times: float) -> dict[str, str]:
    return {**GENEROUS, **{name: f"{time_s}s" for name, time_s in times.items()}}


def hinting_slowly() -> Act:
    return early_hints(0.02)


def dripping_head() -> Act:
    async def act(request: Received, peer: Peer) -> None:
        peer.write(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            peer.write(b"y")
            await asyncio.sleep(0.02)

    return act


def dripping_chunks() -> Act:
    async def act(request: Received, peer: Peer) -> None:
        peer.write(head(200, {"transfer-encoding": "chunked"}))
        while True:
            peer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.02)

    return act


def then_silent() -> Act:
    async def act(request: Received, peer: Peer) -> None:
        peer.write(head(200, {"content-length": "10"}) + b"half")
        await peer.gone()

    return act


ANSWERS: dict[str, Callable[[], Act]] = {
    "silence": silent,
    "a dripping head": dripping_head,
    "a dripping body": lambda: dripping(0.02),
    "dripping chunks": dripping_chunks,
    "half a body": then_silent,
    "early hints": hinting_slowly,
}

each_engine = pytest.mark.parametrize("engine", ["aiohttp", "httpx"])
each_answer = pytest.mark.parametrize("answer", list(ANSWERS))


@each_engine
@each_answer
@pytest.mark.parametrize("which", ["batch", "item", "attempt"])
async def test_an_answer_that_does_not_end_is_ended(
    upstream: ScriptedUpstream, engine: EngineName, answer: str, which: str
):
    upstream.play("/x", ANSWERS[answer]())
    asked = [Item(upstream="api", path="/x")] * 3
    policy: dict[str, Any] = {}
    batch = Batch(asked)
    if which == "batch":
        batch, code = Batch(asked, deadline_s=SHORT_S), "deadline_exceeded"
    elif which == "item":
        policy, code = {"timeout": timeouts(item=SHORT_S)}, "item_timeout"
    else:
        policy, code = {"timeout": timeouts(attempt=SHORT_S), "retry": {"attempts": 1}}, "attempt_timeout"
    async with serving(upstream.url, engine, **policy) as service:
        outcomes = await within(SHORT_S, run(service, batch))
        assert codes(outcomes) == [code] * 3
        assert [outcome.error and outcome.error.sent for outcome in outcomes] == [True] * 3
        await upstream.until(lambda it: it.in_hand == 0)  # and its socket was closed


@each_engine
async def test_an_upload_that_nobody_reads_is_ended(engine: EngineName):
    with nobody_reading() as port:
        async with serving(f"http://127.0.0.1:{port}", engine) as service:
            asked = [Item(upstream="api", path="/x", method="POST", body="x" * 8_000_000)]
            assert codes(await within(SHORT_S, run(service, Batch(asked, deadline_s=SHORT_S)))) == ["deadline_exceeded"]


@each_engine
@pytest.mark.parametrize("which", ["batch", "item", "attempt", "connect"])
async def test_a_tls_handshake_that_stalls_is_ended(engine: EngineName, which: str):
    with nobody_reading() as port:
        await ends(f"https://127.0.0.1:{port}", engine, which)


@each_engine
@pytest.mark.parametrize("which", ["batch", "item", "attempt", "connect"])
async def test_a_connection_that_nobody_takes_is_ended(upstream: ScriptedUpstream, engine: EngineName, which: str):
    async with FaultProxy(upstream.port) as proxy:
        await proxy.strike(Fault.BLACK_HOLE, Phase.CONNECT)
        await ends(proxy.url, engine, which)


@each_engine
@pytest.mark.parametrize("which", ["batch", "item", "attempt", "dns"])
async def test_a_lookup_that_hangs_is_ended(engine: EngineName, which: str, monkeypatch: pytest.MonkeyPatch):
    answered = threading.Event()

    def hung(host: str) -> list[str]:
        answered.wait(30)
        return ["127.0.0.1"]

    monkeypatch.setattr("paceline.transport.lookup._getaddrinfo", hung)
    try:
        await ends("http://api.invalid:9", engine, which)
    finally:
        answered.set()
        await asyncio.sleep(0.05)  # its threads tell the loop, which must still be there


async def ends(base_url: str, engine: EngineName, which: str) -> None:
    """What never comes as far as a request ends within each of the times that bound it, and was never sent."""
    codes_of = {
        "batch": "deadline_exceeded",
        "item": "item_timeout",
        "attempt": "attempt_timeout",
        "connect": "connect_failed",
        "dns": "dns_failed",
    }
    policy = {} if which == "batch" else {"timeout": timeouts(**{which: SHORT_S}), "retry": {"attempts": 1}}
    async with serving(base_url, engine, **policy) as service:
        asked = [Item(upstream="api", path="/x")] * 3
        batch = Batch(asked, deadline_s=SHORT_S) if which == "batch" else Batch(asked)
        outcomes = await within(SHORT_S, run(service, batch))
        assert codes(outcomes) == [codes_of[which]] * 3
        assert [outcome.error and outcome.error.sent for outcome in outcomes] == [False] * 3


@each_engine
async def test_many_at_once_end_together(upstream: ScriptedUpstream, engine: EngineName):
    upstream.play("/x", silent())
    async with serving(upstream.url, engine, concurrency={"limit": 100}) as service:
        asked = [Item(upstream="api", path="/x")] * 300
        began_at = time.perf_counter()
        async with Lateness() as lateness:
            outcomes = await run(service, Batch(asked, deadline_s=1.0))
            took_s = time.perf_counter() - began_at
        assert took_s <= 1.0 + PROMISED_S + 2 * lateness.worst_s, (took_s, lateness.worst_s)
        assert set(codes(outcomes)) == {"deadline_exceeded"}


@each_engine
@pytest.mark.parametrize("strategy", [Strategy.CONCURRENT, Strategy.BOUNDED, Strategy.ADAPTIVE])
async def test_what_waits_for_its_turn_is_ended(upstream: ScriptedUpstream, engine: EngineName, strategy: Strategy):
    upstream.play("/x", silent())
    async with serving(upstream.url, engine, concurrency={"limit": 1}) as service:
        asked = [Item(upstream="api", path="/x")] * 3
        outcomes = await within(SHORT_S, run(service, Batch(asked, strategy=strategy, deadline_s=SHORT_S)))
        assert codes(outcomes) == ["deadline_exceeded"] * 3
        assert sorted(outcome.attempts for outcome in outcomes) == [0, 0, 1]


async def test_what_waits_while_its_upstream_is_paused_is_ended(upstream: ScriptedUpstream):
    async with serving(upstream.url, "aiohttp") as service:
        next(iter(service.registry)).admitter.set_paused(True)
        outcomes = await within(SHORT_S, run(service, Batch([Item(upstream="api", path="/x")] * 3, deadline_s=SHORT_S)))
        assert codes(outcomes) == ["deadline_exceeded"] * 3


@each_engine
async def test_an_item_s_time_runs_on_over_its_attempts_and_backoffs(upstream: ScriptedUpstream, engine: EngineName):
    """Each attempt is short and the upstream answers it; only their sum is too long."""
    upstream.answer("/x", status=503, delay_s=0.1)
    retry = {"attempts": 50, "base": "1ms", "cap": "1ms", "budget_per_s": 1000}
    async with serving(upstream.url, engine, timeout=timeouts(item=0.55), retry=retry) as service:
        began_at = time.perf_counter()
        async with Lateness() as lateness:
            (outcome,) = await run(service, Batch([Item(upstream="api", path="/x")]))
        assert time.perf_counter() - began_at <= 0.55 + PROMISED_S + 2 * lateness.worst_s
        assert 2 <= outcome.attempts <= 6


@contextmanager
def nobody_reading() -> Iterator[int]:
    """A port where the system takes connections and nobody ever reads from them."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]
