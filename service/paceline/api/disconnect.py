"""A caller that hangs up takes its work with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from paceline.api.errors import ClientDisconnected

T = TypeVar("T")


async def run_until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives; it is cancelled, and has let go of everything, when the caller hangs up first.

    The request's body must have been read: from here on nobody else may `receive`.

    Raises:
        CallerGone: the caller hung up.
    """
    loop = asyncio.get_running_loop()
    work_task = loop.create_task(work)
    disconnect_task = loop.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((work_task, disconnect_task), return_when=asyncio.FIRST_COMPLETED)
        if not work_task.done():
            raise ClientDisconnected("the caller hung up before its answer")
        return work_task.result()
    finally:
        work_task.cancel()
        disconnect_task.cancel()
        await asyncio.gather(work_task, disconnect_task, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
