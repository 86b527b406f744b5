"""Large bodies that arrive together are looked through a few at a time, with the event loop's other work in between."""

from __future__ import annotations

import asyncio
from collections import deque

LARGE = 16 * 1024
"""A smaller body is looked through as it comes."""

_EACH = 512 * 1024
"""So many bytes in one turn of the loop: some milliseconds."""

_MOST = 16 * 1024 * 1024
"""So many bytes may wait. A permit is free again while they do, so nothing else would bound them."""


class Turns:
    """Who may go on in which turn of the loop, first come, first served."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._bytes = 0
        self._going = False

    async def turn(self, size: int) -> None:
        """Wait for a turn with a body of this size; at once where too much waits already."""
        if self._bytes + size > _MOST:
            return
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[None] = loop.create_future()
        self._waiting.append((mine, size))
        self._bytes += size
        if not self._going:
            self._going = True
            loop.call_soon(self._next, loop)
        await mine

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        room = _EACH
        while self._waiting and room > 0:
            waiter, size = self._waiting.popleft()
            self._bytes -= size
            if not waiter.done():  # it was cancelled otherwise
                room -= size
                waiter.set_result(None)
        self._going = bool(self._waiting)
        if self._going:
            loop.call_soon(self._next, loop)
