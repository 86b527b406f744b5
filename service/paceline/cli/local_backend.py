"""A run in this process, without a service."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import msgspec

from paceline.app import Service
from paceline.batch.run import BatchRun
from paceline.cli.backend import invalid_line_outcome
from paceline.cli.io.ndjson_reader import InputLine, InvalidLine, NdjsonReader
from paceline.cli.io.output_writer import OutcomeLine, OutputWriter
from paceline.config import Config
from paceline.model import Batch, Outcome, Strategy

_MAX_LINES_PER_TURN = 64
"""Lines decoded and started before the event loop gets a turn."""

_POLL_S = 0.01


class LocalBackend:
    """Starts an item for each free slot and hands every outcome to the writer."""

    def __init__(self, config: Config, batch: Batch) -> None:
        self._service = Service(config)
        self._is_sequential = batch.strategy is Strategy.SEQUENTIAL
        self._batch_run: BatchRun = self._service.runner.open_run(batch)
        self._encode = msgspec.json.Encoder().encode

    async def run(self, reader: NdjsonReader, writer: OutputWriter) -> None:
        """Read, start and await every item."""
        while True:
            slots = await writer.acquire_slots(1 if self._is_sequential else _MAX_LINES_PER_TURN)
            used_slots = 0
            try:
                lines = await reader.read_lines(slots)
                used_slots = len(lines)
            finally:
                writer.release_slots(slots - used_slots)
            if not lines:
                break
            for line in lines:
                self._start_item(line, writer)
            if self._is_sequential:
                await writer.wait_idle()
            else:
                await asyncio.sleep(0)
        await writer.wait_idle()

    async def drain(self, within_s: float) -> None:
        """After `run` was cancelled: send nothing more, and wait at most `within_s` seconds for what is in flight."""
        registry = self._service.registry
        gates = [upstream.async_gate for upstream in (*registry, *registry.undeclared)]
        for gate in gates:
            gate.set_paused(True)
        give_up_at = time.perf_counter() + within_s
        while any(a.gate.in_flight for a in gates) and time.perf_counter() < give_up_at:  # noqa: ASYNC110 - a gate has no event for it
            await asyncio.sleep(_POLL_S)
        await asyncio.sleep(_POLL_S)  # the last answers become outcomes

    async def close(self) -> None:
        """Cancel what is still on its way and close every connection."""
        await self._batch_run.cancel()
        self._service.runner.discard_run(self._batch_run)
        await self._service.close()

    def _start_item(self, line: InputLine | InvalidLine, writer: OutputWriter) -> None:
        if isinstance(line, InvalidLine):
            writer.enqueue(self._outcome_line(invalid_line_outcome(line)))
            return
        task = self._batch_run.start_item(line.index, line.item)
        task.add_done_callback(partial(self._on_item_done, writer))

    def _on_item_done(self, writer: OutputWriter, task: asyncio.Task[Outcome]) -> None:
        if task.cancelled():
            writer.release_slots(1)
        else:
            writer.enqueue(self._outcome_line(task.result()))

    def _outcome_line(self, outcome: Outcome) -> OutcomeLine:
        return OutcomeLine(self._encode(outcome) + b"\n", outcome.outcome, outcome.attempts)
