"""A queue for work on large bodies: those that arrive together are processed a few at a time, so that the event loop
serves others in between.
"""

from __future__ import annotations

import asyncio
from collections import deque

LARGE_BODY_BYTES = 16 * 1024
"""A smaller body is processed without waiting."""

_BYTES_PER_SLICE = 512 * 1024
"""Processed in one turn of the event loop: some milliseconds."""

_MAX_QUEUED_BYTES = 16 * 1024 * 1024
"""The maximum that waits. Its permits are free again, so that no other limit bounds it."""


class BodyWorkQueue:
    """Gives each body a turn of the event loop, first come, first served."""

    def __init__(self) -> None:
        self._waiters: deque[tuple[asyncio.Future[None], int]] = deque()
        self._queued_bytes = 0
        self._scheduled = False

    async def wait_turn(self, size_bytes: int) -> None:
        """Wait for a turn with a body of this size; do not wait if too much is queued already."""
        if self._queued_bytes + size_bytes > _MAX_QUEUED_BYTES:
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiters.append((turn, size_bytes))
        self._queued_bytes += size_bytes
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._run_slice, loop)
        await turn

    def _run_slice(self, loop: asyncio.AbstractEventLoop) -> None:
        bytes_left = _BYTES_PER_SLICE
        while self._waiters and bytes_left > 0:
            waiter, size_bytes = self._waiters.popleft()
            self._queued_bytes -= size_bytes
            if not waiter.done():  # it was cancelled otherwise
                bytes_left -= size_bytes
                waiter.set_result(None)
        self._scheduled = bool(self._waiters)
        if self._scheduled:
            loop.call_soon(self._run_slice, loop)
