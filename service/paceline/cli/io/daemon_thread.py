"""Blocking calls off the event loop, on a thread that never delays the end of the command."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class DaemonThreadExecutor:
    """Runs calls one after another on a separate daemon thread.

    The loop's executor is not used: at exit it waits for its threads, and a read of a terminal may never return.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._run_calls, name=name, daemon=True).start()

    async def run(self, call: Callable[[], T]) -> T:
        """The call's result, or what it raised."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def call_and_resolve() -> None:
            try:
                result = call()
            except Exception as error:
                _resolve_threadsafe(loop, future, partial(future.set_exception, error))
            else:
                _resolve_threadsafe(loop, future, partial(future.set_result, result))

        self._calls.put(call_and_resolve)
        return await future

    def close(self) -> None:
        """Let the thread end once its calls are done."""
        self._calls.put(None)

    def _run_calls(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _resolve_threadsafe(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], resolve: Callable[[], object]
) -> None:
    def resolve_unless_done() -> None:
        if not future.done():
            resolve()

    with suppress(RuntimeError):  # the loop is closed: no task waits any more
        loop.call_soon_threadsafe(resolve_unless_done)
