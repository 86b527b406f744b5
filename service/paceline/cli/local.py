"""A run on the engine itself, in this very process; no service is needed."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import msgspec

from paceline.app import Service
from paceline.batch.outcome import Subject, failed
from paceline.batch.runner import Run
from paceline.cli.outlet import Outlet, Ready
from paceline.cli.source import Entry, Source, Unusable
from paceline.config import Config
from paceline.model import Batch, Expect, Outcome, OutcomeKind, Receipt, Strategy

_AT_ONCE = 64
"""Lines decoded and started before the event loop gets a turn."""

_POLL_S = 0.01


class LocalRun:
    """Starts items as slots get free and puts each outcome into the outlet."""

    def __init__(self, config: Config, batch: Batch) -> None:
        self._service = Service(config)
        self._sequential = batch.strategy is Strategy.SEQUENTIAL
        self._run: Run = self._service.runner.open(batch)
        self._encode = msgspec.json.Encoder().encode

    async def carry(self, source: Source, outlet: Outlet) -> None:
        """Read, start and await every item."""
        while True:
            room = await outlet.room(1 if self._sequential else _AT_ONCE)
            taken = 0
            try:
                entries = await source.take(room)
                taken = len(entries)
            finally:
                outlet.give_back(room - taken)
            if not entries:
                break
            for entry in entries:
                self._start(entry, outlet)
            if self._sequential:
                await outlet.empty()
            else:
                await asyncio.sleep(0)
        await outlet.empty()

    async def settle(self, within_s: float) -> None:
        """After `carry` was cancelled: nothing new is sent, what is in flight may end, and the rest is let go."""
        registry = self._service.registry
        admitters = [upstream.admitter for upstream in (*registry, *registry.undeclared)]
        for admitter in admitters:
            admitter.set_paused(True)
        give_up = time.perf_counter() + within_s
        while any(a.gate.in_flight for a in admitters) and time.perf_counter() < give_up:  # noqa: ASYNC110 - gates tell nobody
            await asyncio.sleep(_POLL_S)
        await asyncio.sleep(_POLL_S)  # the last answers become outcomes

    async def close(self) -> None:
        """Cancel what is still on its way and close every connection."""
        await self._run.cancel()
        self._service.runner.forget(self._run)
        await self._service.close()

    def _start(self, entry: Entry | Unusable, outlet: Outlet) -> None:
        if isinstance(entry, Unusable):
            outlet.put(self._ready(unusable(entry)))
            return
        task = self._run.start(entry.index, entry.item)
        task.add_done_callback(partial(self._done, outlet))

    def _done(self, outlet: Outlet, task: asyncio.Task[Outcome]) -> None:
        if task.cancelled():
            outlet.give_back(1)
        else:
            outlet.put(self._ready(task.result()))

    def _ready(self, outcome: Outcome) -> Ready:
        return Ready(self._encode(outcome) + b"\n", outcome.outcome, outcome.attempts)


def unusable(entry: Unusable) -> Outcome:
    """The outcome of a line that is no item."""
    subject = Subject(entry.id, entry.index, Expect.AUTO, 0.0, Receipt())
    return failed(subject, OutcomeKind.REJECTED, "invalid_request", entry.message, 0.0)
