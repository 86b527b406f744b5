"""Names become addresses in threads of their own, so that a resolver that hangs holds up nobody else.

`getaddrinfo` cannot be cancelled. A name is looked up once at a time however many ask for it, in a daemon thread that
no shutdown waits for, and who has waited long enough leaves. At most `MAX_LOOKUPS` names are asked for at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from threading import Thread

MAX_LOOKUPS = 64

Answer = Sequence[str] | Exception


class SystemLookup:
    """The system's resolver. `await lookup(host)` gives every address of a name, in the resolver's order."""

    def __init__(self, addresses_of: Callable[[str], Sequence[str]] | None = None) -> None:
        self._addresses_of = addresses_of or _getaddrinfo
        self._asked: dict[str, asyncio.Future[Answer]] = {}
        self._waiting: deque[str] = deque()
        self._threads = 0

    async def __call__(self, host: str) -> list[str]:
        """Every address of `host`. Raises OSError or UnicodeError as `getaddrinfo` does."""
        future = self._asked.get(host)
        if future is None:
            future = self._asked[host] = asyncio.get_running_loop().create_future()
            self._waiting.append(host)
            self._start()
        answer = await asyncio.shield(future)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    def _start(self) -> None:
        while self._waiting and self._threads < MAX_LOOKUPS:
            host = self._waiting.popleft()
            self._threads += 1
            Thread(target=self._ask, args=(host, asyncio.get_running_loop()), daemon=True).start()

    def _ask(self, host: str, loop: asyncio.AbstractEventLoop) -> None:
        answer: Answer
        try:
            answer = self._addresses_of(host)
        except Exception as error:
            answer = error
        try:
            loop.call_soon_threadsafe(self._answered, host, answer)
        except RuntimeError:  # the loop closed while the resolver hung: nobody is left to tell
            return

    def _answered(self, host: str, answer: Answer) -> None:
        self._threads -= 1
        self._asked.pop(host).set_result(answer)  # a result even when it failed: waiters may all have left
        self._start()


def _getaddrinfo(host: str) -> list[str]:
    answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in answers))
