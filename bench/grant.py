"""What it costs to let one call go, however many wait: the gate by itself, through its shell, and aiolimiter."""

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

from paceline.admission.allowance import Allowance
from paceline.admission.gate import Gate
from paceline.admission.lineup import Lane, Waiter
from paceline.admission.shell import Admitter
from paceline.model import ONE_REQUEST, Exchange, Priority, Rate, Receipt, Verdict

WAITERS = (10, 10_000)
GRANTS = 20_000
ROUNDS = 3
RATE = 20_000
BURST = 20
WITHDRAWN = 10
"""One waiter in so many gives up."""

One = Callable[[], Awaitable[None]]


def run(console: Console) -> None:
    """Measure and print; medians of three alternations."""
    contenders: dict[str, Callable[[int], float]] = {
        "gate, held by permits": lambda waiters: _gate(waiters, permits=BURST, rate=1_000_000),
        "gate, held by its rate": lambda waiters: _gate(waiters, permits=inf, rate=RATE),
        "gate and shell, with tasks": lambda waiters: uvloop.run(_tasks(waiters, _admitted)),
        "aiolimiter, with tasks": lambda waiters: uvloop.run(_tasks(waiters, _limited)),
    }
    seen: dict[tuple[str, int], list[float]] = {(name, waiters): [] for name in contenders for waiters in WAITERS}
    for _ in range(ROUNDS):
        for name, waiters in seen:
            gc.collect()
            seen[name, waiters].append(contenders[name](waiters))
    table = Table(
        title=f"offer + grant + write + settle, one exact window; us of CPU, medians of {ROUNDS} alternations"
    )
    for heading in ("", *(f"{waiters:,} waiting" for waiters in WAITERS), "growth"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in contenders:
        few, many = (median(seen[name, waiters]) * 1e6 for waiters in WAITERS)
        table.add_row(name, f"{few:.1f}", f"{many:.1f}", f"{many / few:.2f}")
    console.print(table)
    console.print(f"gate: one waiter in {WITHDRAWN} gives up, which is included; tasks: switching them is included\n")


def _gate(waiters: int, *, permits: float, rate: float) -> float:
    """CPU seconds a grant, with so many waiting all the time, in time of its own."""
    gate = Gate(
        [Rate(rate, 1.0, BURST)],
        limit=permits,
        adaptive_limit=inf,
        transit_s=0.05,
        max_pause_s=900.0,
        sockets=Allowance(),
        wake=lambda: None,
    )
    flow = gate.open(Lane.ADAPTIVE, Priority.NORMAL, "tenant", None)
    beat_s = 1 / RATE
    now = 100.0
    for _ in range(waiters + BURST):  # the first go at once
        gate.offer(Waiter(flow, ONE_REQUEST, Receipt()), now)
    flying: deque[Waiter] = deque()
    withdrawn = 0

    def go() -> None:
        for waiter in gate.look(now)[0]:
            gate.written(waiter, now)
            flying.append(waiter)

    go()
    done = 0
    began = time.process_time()
    while done < GRANTS:
        now += beat_s
        waiter = Waiter(flow, ONE_REQUEST, Receipt())
        gate.offer(waiter, now)
        if done % WITHDRAWN == 0 and withdrawn <= done // WITHDRAWN:
            gate.withdraw(waiter, now)
            gate.offer(Waiter(flow, ONE_REQUEST, Receipt()), now)
            withdrawn += 1
        if flying:
            gate.settle(flying.popleft(), Verdict.SUCCESS, now, answered_at=now, reused=True)
            done += 1
        go()
    return (time.process_time() - began) / GRANTS


def _admitted() -> One:
    admitter = Admitter(
        [Rate(RATE, 1.0, BURST)],
        limit=inf,
        adaptive_limit=inf,
        transit_s=0.05,
        max_pause_s=900.0,
        sockets=Allowance(),
        on_pause=lambda pause_s: None,
    )
    flow = admitter.gate.open(Lane.ADAPTIVE, Priority.NORMAL, "tenant", None)

    async def one() -> None:
        waiter = Waiter(flow, ONE_REQUEST, Receipt())
        await admitter.admit(waiter)
        now = time.perf_counter()
        admitter.written(waiter, now)
        admitter.settle(waiter, Verdict.SUCCESS, Exchange(now, now, True))

    return one


def _limited() -> One:
    return AsyncLimiter(BURST, BURST / RATE).acquire


async def _tasks(waiters: int, make: Callable[[], One]) -> float:
    """CPU seconds a grant, with so many tasks of which each waits again as soon as it may go."""
    one, grants = make(), 0

    async def again() -> None:
        nonlocal grants
        while True:
            await one()
            grants += 1

    tasks = [asyncio.create_task(again()) for _ in range(waiters)]
    await asyncio.sleep(0.3)
    cpu_s, before = time.process_time(), grants
    await asyncio.sleep(1.0)
    cost_s = (time.process_time() - cpu_s) / (grants - before)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return cost_s
