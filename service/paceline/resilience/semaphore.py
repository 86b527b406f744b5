"""The semaphore of the `bounded` and `token_bucket` strategies: a limit on the calls of one batch."""

from __future__ import annotations

import asyncio
import time

from paceline.model import Request, Response, Send


class SemaphoreLayer:
    """A batch's own concurrency limit; its wait is on the receipt as `queue_s`."""

    def __init__(self, limit: int) -> None:
        self._semaphore = asyncio.Semaphore(limit)

    async def __call__(self, request: Request, call_next: Send) -> Response:
        if self._semaphore.locked():
            began_at = time.perf_counter()
            try:
                await self._semaphore.acquire()
            finally:
                request.receipt.queue_s += time.perf_counter() - began_at
        else:
            await self._semaphore.acquire()
        try:
            return await call_next(request)
        finally:
            self._semaphore.release()
