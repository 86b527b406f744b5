"""Each fault at each phase on both engines: what becomes of an item, how often it is tried, and that nothing is left.

A cell sends three safe items at once and then one that must not be sent twice, lifts the fault, and sends again.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from paceline.app import Service
from paceline.config import Config
from paceline.model import Batch, EngineName, Item, Outcome
from support.in_memory_upstream import is_idle, outcome_codes, run_batch
from tools.fault_proxy import SHAPING, Fault, FaultProxy, Phase
from tools.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.verify

LIMIT, PER_S = 40, 0.3
AT_ONCE = 3
PATIENT = {"connect": "8s", "attempt": "8s"}
BRISK = {"connect": "250ms", "attempt": "500ms"}
BODY = "x" * 400

SUCCESS = frozenset({"success"})
BROKEN = frozenset({"protocol_error"})
SILENT = frozenset({"attempt_timeout"})
NO_TLS = frozenset({"tls_failed"})
NO_CONNECTION = frozenset({"connect_failed"})
EITHER = BROKEN | NO_CONNECTION
"""Ended as soon as it was open: before or after the request was written."""


class Expected(NamedTuple):
    """Codes and attempts, of the safe items and of the one that is not."""

    safe: frozenset[str]
    attempts: int
    once: frozenset[str]
    once_attempts: int


def never_sent(code: frozenset[str]) -> Expected:
    return Expected(code, 2, code, 2)


def sent(code: frozenset[str]) -> Expected:
    return Expected(code, 2, code, 1)


UNHARMED = Expected(SUCCESS, 1, SUCCESS, 1)
REFUSED = never_sent(NO_CONNECTION)
AT_CONNECT = {
    Fault.RESET: Expected(EITHER, 2, EITHER, 0),
    Fault.TRUNCATED: Expected(EITHER, 2, EITHER, 0),
    Fault.SLOW_CLOSE: sent(BROKEN),
    Fault.BLACK_HOLE: REFUSED,
    Fault.DOWN: REFUSED,
}
IN_TLS = {
    Fault.RESET: never_sent(NO_TLS),
    Fault.TRUNCATED: never_sent(NO_TLS),
    Fault.SLOW_CLOSE: never_sent(NO_TLS),
    Fault.BLACK_HOLE: REFUSED,
    Fault.DOWN: REFUSED,
}
IN_ANSWER = {
    Fault.RESET: sent(BROKEN),
    Fault.TRUNCATED: sent(BROKEN),
    Fault.SLOW_CLOSE: sent(BROKEN),
    Fault.BLACK_HOLE: sent(SILENT),
    Fault.DOWN: REFUSED,
}
WHILE_IDLE = {
    Fault.RESET: UNHARMED,
    Fault.TRUNCATED: UNHARMED,
    # A dead connection looks the same as an idle one: the safe items are tried again, on a new one.
    Fault.SLOW_CLOSE: Expected(SUCCESS, 2, BROKEN, 1),
    Fault.BLACK_HOLE: Expected(SUCCESS, 2, SILENT, 1),
    Fault.DOWN: REFUSED,
}
HARM = {
    Phase.CONNECT: AT_CONNECT,
    Phase.TLS: IN_TLS,
    Phase.HEADERS: IN_ANSWER,
    Phase.BODY: IN_ANSWER,
    Phase.IDLE: WHILE_IDLE,
}


def expected(fault: Fault, phase: Phase, engine: EngineName) -> Expected:
    if fault in SHAPING:
        return UNHARMED
    if phase is Phase.IDLE and engine == "httpx":
        return UNHARMED  # it keeps no connection
    return HARM[phase][fault]


CA = trustme.CA()


@asynccontextmanager
async def through_a_proxy(
    phase: Phase, engine: EngineName, folder: Path, timeouts: dict[str, str]
) -> AsyncIterator[tuple[Service, FaultProxy]]:
    """A service whose upstream `api` is behind a fault proxy; at its end everything it had opened is closed again."""
    tls: ssl.SSLContext | None = None
    extra: dict[str, Any] = {}
    if phase is Phase.TLS:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        CA.issue_cert("127.0.0.1").configure_cert(tls)
        CA.cert_pem.write_to_path(str(folder / "ca.pem"))
        extra["tls"] = {"ca_file": str(folder / "ca.pem")}
    async with ScriptedUpstream(tls=tls) as upstream, FaultProxy(upstream.port) as proxy:
        upstream.script_response(body=BODY, headers={"content-type": "text/plain"})
        await asyncio.sleep(0)
        before = left_open()
        policy = {
            "base_url": proxy.url.replace("http", "https" if tls else "http", 1),
            "allow_private": True,
            "engine": engine,
            "rate": [{"limit": LIMIT, "per": f"{PER_S}s"}],
            "concurrency": {"limit": AT_ONCE},
            "retry": {"attempts": 2, "base": "1ms", "cap": "5ms", "budget_per_s": 100},
            "timeout": timeouts,
            **extra,
        }
        service = Service(Config.model_validate({"upstreams": {"api": policy}}))
        try:
            yield service, proxy
            assert is_idle(service)
            assert service.registry._socket_pool.in_flight == 0
            await every_token_is_back(service)
        finally:
            await service.close()
        await proxy.wait_until(lambda it: it.open_connections == 0)
        await upstream.wait_until(lambda it: it.open_connections == 0)
        await asyncio.sleep(0)
        assert left_open() == before


def left_open() -> tuple[int, int]:
    """File descriptors and tasks."""
    return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())


async def every_token_is_back(service: Service) -> None:
    """No later than a window after the last of them was written."""
    (window,) = next(iter(service.registry)).async_gate.gate.budgets.snapshot()[0].windows
    ends_at = time.perf_counter() + 10 * PER_S
    while window.remaining(time.perf_counter(), 0.05) < LIMIT:
        assert time.perf_counter() < ends_at, window.remaining(time.perf_counter(), 0.05)
        await asyncio.sleep(0.01)


async def fetch(service: Service, count: int, method: str = "GET") -> list[Outcome]:
    outcomes = await run_batch(
        service, Batch([Item(upstream="api", path=f"/{n}", method=method) for n in range(count)])
    )
    for outcome in outcomes:
        if outcome.outcome == "success":
            assert outcome.body == BODY
    return outcomes


@pytest.mark.parametrize("engine", ["aiohttp", "httpx"])
@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("phase", list(Phase))
async def test_a_fault_costs_its_items_what_it_must_and_leaves_nothing(
    phase: Phase, fault: Fault, engine: EngineName, tmp_path: Path
) -> None:
    timeouts = PATIENT if fault in SHAPING else BRISK
    wanted = expected(fault, phase, engine)
    async with through_a_proxy(phase, engine, tmp_path, timeouts) as (service, proxy):
        if phase is Phase.IDLE:
            await fetch(service, AT_ONCE)
            await proxy.wait_until(lambda it: it.open_connections == (AT_ONCE if engine == "aiohttp" else 0))
        await proxy.inject(fault, phase)
        await proxy.wait_until_idle_broken()

        safe = await fetch(service, AT_ONCE)
        assert set(outcome_codes(safe)) <= wanted.safe, outcome_codes(safe)
        assert [outcome.attempts for outcome in safe] == [wanted.attempts] * AT_ONCE
        await proxy.wait_until_idle_broken()
        (once,) = await fetch(service, 1, "POST")
        assert set(outcome_codes([once])) <= wanted.once, once
        if wanted.once_attempts:
            assert once.attempts == wanted.once_attempts
        if once.error is not None:
            # What may have been sent is tried once and says so; what certainly was not, again.
            assert once.error.sent == (once.attempts == 1)

        await proxy.clear()
        assert outcome_codes(await fetch(service, AT_ONCE)) == ["success"] * AT_ONCE
