"""Where a run's outcomes go, and the room it has: a slot is free again when its outcome is written, not before."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial

from msgspec import Struct

from paceline.cli.io.daemon_thread import DaemonThreadExecutor
from paceline.cli.io.output_file import OutputFile
from paceline.model import OutcomeKind

_MAX_LINES_PER_WRITE = 1000
"""Lines in one write."""


class RunTotals(Struct):
    """A run in numbers; grows as outcomes are written."""

    succeeded: int = 0
    failed: int = 0
    rejected: int = 0
    attempts: int = 0
    retries: int = 0

    @property
    def total(self) -> int:
        return self.succeeded + self.failed + self.rejected

    def add(self, outcome: OutcomeKind, attempts: int) -> None:
        if outcome is OutcomeKind.SUCCESS:
            self.succeeded += 1
        elif outcome is OutcomeKind.REJECTED:
            self.rejected += 1
        else:
            self.failed += 1
        self.attempts += attempts
        self.retries += max(0, attempts - 1)


class OutcomeLine(Struct, frozen=True):
    """An outcome's line, with its newline, and what is counted of it."""

    text: bytes
    outcome: OutcomeKind
    attempts: int


class OutputWriter:
    """Writes outcomes in order of completion; never more than `lookahead` items are between its two ends."""

    def __init__(self, file: OutputFile, lookahead: int) -> None:
        self.totals = RunTotals()
        self._file = file
        self._thread = DaemonThreadExecutor("output")
        self._free_slots = lookahead
        self._total_slots = lookahead
        self._queue: deque[OutcomeLine] = deque()
        self._wakeup = asyncio.Event()
        self._slot_freed = asyncio.Event()
        self._is_finishing = False

    async def acquire_slots(self, max_slots: int) -> int:
        """Wait for a free slot, and take up to `max_slots` of those that are free."""
        while not self._free_slots:
            self._slot_freed.clear()
            await self._slot_freed.wait()
        taken = min(max_slots, self._free_slots)
        self._free_slots -= taken
        return taken

    def release_slots(self, slots: int) -> None:
        """Free slots without an outcome: they had no item, or its item is left for the next run."""
        self._free_slots += slots
        self._slot_freed.set()

    def enqueue(self, line: OutcomeLine) -> None:
        """Have a line written; its slot is free once it is."""
        self._queue.append(line)
        self._wakeup.set()

    def finish(self) -> None:
        """Let `write_until_finished` return once every queued line is written."""
        self._is_finishing = True
        self._wakeup.set()

    async def wait_idle(self) -> None:
        """Wait until every slot is free."""
        while self._free_slots < self._total_slots:
            self._slot_freed.clear()
            await self._slot_freed.wait()

    async def write_until_finished(self) -> None:
        """Write what is put until `finish`.

        Raises:
            OSError: the file or the pipe takes no more.
        """
        try:
            while self._queue or not self._is_finishing:
                if not self._queue:
                    self._wakeup.clear()
                    await self._wakeup.wait()
                    continue
                lines = [self._queue.popleft() for _ in range(min(_MAX_LINES_PER_WRITE, len(self._queue)))]
                content = b"".join(line.text for line in lines)
                await self._thread.run(partial(self._file.write, content))
                for line in lines:
                    self.totals.add(line.outcome, line.attempts)
                self.release_slots(len(lines))
        finally:
            self._thread.close()
