"""Cancel the work for a caller when that caller disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

from paceline.api.errors import ClientDisconnected

T = TypeVar("T")


async def run_until_disconnect(receive: Receive, work: Awaitable[T]) -> T:
    """Await `work`; when the caller disconnects first, cancel it and return once it has cleaned up.

    The request's body must have been read: from here on only this function may call `receive`. The work runs in the
    calling task, as `asyncio.timeout` does it: a separate task would cost a fetch 3 % of its CPU.

    Raises:
        ClientDisconnected: the caller disconnected.
    """
    task = asyncio.current_task()
    assert task is not None
    cancel_requests = task.cancelling()
    is_finished = is_disconnected = False

    def cancel_work(watcher: asyncio.Task[None]) -> None:
        nonlocal is_disconnected
        if not is_finished and not watcher.cancelled():
            is_disconnected = True
            task.cancel()

    watcher = asyncio.get_running_loop().create_task(_wait_for_disconnect(receive))
    watcher.add_done_callback(cancel_work)
    try:
        result = await work
        if is_disconnected:  # and the work swallowed its cancellation
            raise asyncio.CancelledError
        return result
    except BaseException:
        if is_disconnected and task.uncancel() <= cancel_requests:
            raise ClientDisconnected("the caller disconnected before its response") from None
        raise
    finally:
        is_finished = True
        watcher.cancel()
        try:
            await watcher
        except asyncio.CancelledError:
            if task.cancelling() > cancel_requests:
                raise


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
