"""Where a run's outcomes go, and the room it has: a slot is free again when its outcome is written, not before."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial

from msgspec import Struct

from paceline.cli.aside import Aside
from paceline.cli.sink import Sink
from paceline.model import OutcomeKind

_AT_ONCE = 1000
"""Lines in one write."""


class Tally(Struct):
    """A run in numbers; grows as outcomes are written."""

    succeeded: int = 0
    failed: int = 0
    rejected: int = 0
    attempts: int = 0
    retries: int = 0

    @property
    def total(self) -> int:
        return self.succeeded + self.failed + self.rejected

    def count(self, outcome: OutcomeKind, attempts: int) -> None:
        if outcome is OutcomeKind.SUCCESS:
            self.succeeded += 1
        elif outcome is OutcomeKind.REJECTED:
            self.rejected += 1
        else:
            self.failed += 1
        self.attempts += attempts
        self.retries += max(0, attempts - 1)


class Ready(Struct, frozen=True):
    """An outcome's line, with its newline, and what is counted of it."""

    text: bytes
    outcome: OutcomeKind
    attempts: int


class Outlet:
    """Writes outcomes in order of completion; never more than `lookahead` items are between its two ends."""

    def __init__(self, sink: Sink, lookahead: int) -> None:
        self.tally = Tally()
        self._sink = sink
        self._aside = Aside("output")
        self._free = lookahead
        self._lookahead = lookahead
        self._ready: deque[Ready] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._closing = False

    async def room(self, most: int) -> int:
        """Wait for a free slot, and take up to `most` of those that are free."""
        while not self._free:
            self._room.clear()
            await self._room.wait()
        taken = min(most, self._free)
        self._free -= taken
        return taken

    def give_back(self, slots: int) -> None:
        """Free slots without an outcome: there was no item for them, or it was left for the next run."""
        self._free += slots
        self._room.set()

    def put(self, ready: Ready) -> None:
        """Have a line written; its slot is free once it is."""
        self._ready.append(ready)
        self._news.set()

    def finish(self) -> None:
        """Nothing more will come: `write` returns when all is written."""
        self._closing = True
        self._news.set()

    async def empty(self) -> None:
        """Wait until every slot is free."""
        while self._free < self._lookahead:
            self._room.clear()
            await self._room.wait()

    async def write(self) -> None:
        """Write what is put until `finish`.

        Raises:
            OSError: the file or the pipe takes no more.
        """
        try:
            while self._ready or not self._closing:
                if not self._ready:
                    self._news.clear()
                    await self._news.wait()
                    continue
                lines = [self._ready.popleft() for _ in range(min(_AT_ONCE, len(self._ready)))]
                content = b"".join(line.text for line in lines)
                await self._aside.run(partial(self._sink.write, content))
                for line in lines:
                    self.tally.count(line.outcome, line.attempts)
                self.give_back(len(lines))
        finally:
            self._aside.close()
