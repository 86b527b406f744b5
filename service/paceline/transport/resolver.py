"""Name resolution in daemon threads, so that a resolver that hangs blocks no other call.

`getaddrinfo` cannot be cancelled. Concurrent calls for a name share one lookup, whose thread no shutdown waits for; a
call that times out leaves it running. At most `MAX_LOOKUPS` lookups run at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from threading import Thread

MAX_LOOKUPS = 64

Resolution = Sequence[str] | Exception


class SystemResolver:
    """The system's resolver: `await resolver(host)` returns every address of a name, in the resolver's order."""

    def __init__(self, resolve_host: Callable[[str], Sequence[str]] | None = None) -> None:
        self._resolve_host = resolve_host or _getaddrinfo
        self._pending: dict[str, asyncio.Future[Resolution]] = {}
        self._queued: deque[str] = deque()
        self._running_threads = 0

    async def __call__(self, host: str) -> list[str]:
        """Every address of `host`. Raises OSError or UnicodeError as `getaddrinfo` does."""
        future = self._pending.get(host)
        if future is None:
            future = self._pending[host] = asyncio.get_running_loop().create_future()
            self._queued.append(host)
            self._start_threads()
        resolution = await asyncio.shield(future)
        if isinstance(resolution, Exception):
            raise resolution
        return list(resolution)

    def _start_threads(self) -> None:
        while self._queued and self._running_threads < MAX_LOOKUPS:
            host = self._queued.popleft()
            self._running_threads += 1
            Thread(target=self._resolve_in_thread, args=(host, asyncio.get_running_loop()), daemon=True).start()

    def _resolve_in_thread(self, host: str, loop: asyncio.AbstractEventLoop) -> None:
        resolution: Resolution
        try:
            resolution = self._resolve_host(host)
        except Exception as error:
            resolution = error
        try:
            loop.call_soon_threadsafe(self._on_resolved, host, resolution)
        except RuntimeError:  # the loop closed while the resolver hung: no call waits any more
            return

    def _on_resolved(self, host: str, resolution: Resolution) -> None:
        self._running_threads -= 1
        self._pending.pop(host).set_result(resolution)  # a result even when it failed: waiters may all have left
        self._start_threads()


def _getaddrinfo(host: str) -> list[str]:
    answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in answers))
