"""The CPU cost of one grant, with few and with many waiters: the gate alone, through `AsyncGate`, and aiolimiter."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from statistics import median

import uvloop
from aiolimiter import AsyncLimiter
from rich.console import Console
from rich.table import Table

from paceline.admission.async_gate import AsyncGate
from paceline.admission.gate import Gate
from paceline.admission.lane import Lane
from paceline.admission.lane_queue import Waiter
from paceline.admission.permit_pool import PermitPool
from paceline.model import ONE_REQUEST, Exchange, Priority, Rate, Receipt, Verdict

WAITERS = (10, 10_000)
GRANTS = 20_000
ROUNDS = 3
RATE = 20_000
BURST = 20
WITHDRAW_EVERY = 10
"""One waiter in this many is withdrawn."""

AcquireOnce = Callable[[], Awaitable[None]]


def run(console: Console) -> None:
    """Measure and print; medians of three alternations."""
    contenders: dict[str, Callable[[int], float]] = {
        "gate, held by permits": lambda waiters: _measure_gate(waiters, permits=BURST, rate=1_000_000),
        "gate, held by its rate": lambda waiters: _measure_gate(waiters, permits=inf, rate=RATE),
        "gate and AsyncGate, with tasks": lambda waiters: uvloop.run(_measure_tasks(waiters, _gate_acquirer)),
        "aiolimiter, with tasks": lambda waiters: uvloop.run(_measure_tasks(waiters, _aiolimiter_acquirer)),
    }
    samples: dict[tuple[str, int], list[float]] = {(name, waiters): [] for name in contenders for waiters in WAITERS}
    for _ in range(ROUNDS):
        for name, waiters in samples:
            gc.collect()
            samples[name, waiters].append(contenders[name](waiters))
    table = Table(
        title=f"offer + grant + write + settle, one exact window; us of CPU, medians of {ROUNDS} alternations"
    )
    for heading in ("", *(f"{waiters:,} waiting" for waiters in WAITERS), "growth"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in contenders:
        few, many = (median(samples[name, waiters]) * 1e6 for waiters in WAITERS)
        table.add_row(name, f"{few:.1f}", f"{many:.1f}", f"{many / few:.2f}")
    console.print(table)
    console.print(
        f"gate: one waiter in {WITHDRAW_EVERY} gives up, which is included; tasks: switching them is included\n"
    )


def _measure_gate(waiters: int, *, permits: float, rate: float) -> float:
    """Measure the CPU seconds of a grant with a constant number of waiters, in virtual time."""
    gate = Gate(
        [Rate(rate, 1.0, BURST)],
        limit=permits,
        adaptive_limit=inf,
        transit_s=0.05,
        max_pause_s=900.0,
        socket_pool=PermitPool(),
        request_dispatch=lambda: None,
    )
    flow = gate.open_flow(Lane.ADAPTIVE, Priority.NORMAL, "tenant", None)
    interval_s = 1 / RATE
    now = 100.0
    for _ in range(waiters + BURST):  # the first go at once
        gate.offer(Waiter(flow, ONE_REQUEST, Receipt()), now)
    in_flight: deque[Waiter] = deque()
    withdrawn = 0

    def dispatch() -> None:
        for waiter in gate.dispatch(now)[0]:
            gate.mark_written(waiter, now)
            in_flight.append(waiter)

    dispatch()
    granted = 0
    started_at = time.process_time()
    while granted < GRANTS:
        now += interval_s
        waiter = Waiter(flow, ONE_REQUEST, Receipt())
        gate.offer(waiter, now)
        if granted % WITHDRAW_EVERY == 0 and withdrawn <= granted // WITHDRAW_EVERY:
            gate.withdraw(waiter, now)
            gate.offer(Waiter(flow, ONE_REQUEST, Receipt()), now)
            withdrawn += 1
        if in_flight:
            gate.settle(in_flight.popleft(), Verdict.SUCCESS, now, answered_at=now, reused=True)
            granted += 1
        dispatch()
    return (time.process_time() - started_at) / GRANTS


def _gate_acquirer() -> AcquireOnce:
    gate = AsyncGate(
        [Rate(RATE, 1.0, BURST)],
        limit=inf,
        adaptive_limit=inf,
        transit_s=0.05,
        max_pause_s=900.0,
        socket_pool=PermitPool(),
        on_pause=lambda pause_s: None,
    )
    flow = gate.gate.open_flow(Lane.ADAPTIVE, Priority.NORMAL, "tenant", None)

    async def acquire_once() -> None:
        waiter = Waiter(flow, ONE_REQUEST, Receipt())
        await gate.acquire(waiter)
        now = time.perf_counter()
        gate.mark_written(waiter, now)
        gate.settle(waiter, Verdict.SUCCESS, Exchange(now, now, True))

    return acquire_once


def _aiolimiter_acquirer() -> AcquireOnce:
    return AsyncLimiter(BURST, BURST / RATE).acquire


async def _measure_tasks(waiters: int, make_acquirer: Callable[[], AcquireOnce]) -> float:
    """Measure the CPU seconds of a grant with a number of tasks, each of which waits again after its grant."""
    acquire_once, grants = make_acquirer(), 0

    async def acquire_forever() -> None:
        nonlocal grants
        while True:
            await acquire_once()
            grants += 1

    tasks = [asyncio.create_task(acquire_forever()) for _ in range(waiters)]
    await asyncio.sleep(0.3)
    cpu_s, grants_before = time.process_time(), grants
    await asyncio.sleep(1.0)
    cost_s = (time.process_time() - cpu_s) / (grants - grants_before)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return cost_s
