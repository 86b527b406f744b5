"""How a rate is kept by hand, as it is usually written. Run as a child: sends all items and ends."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

MAX_IN_FLIGHT = 1000

Acquire = Callable[[], Awaitable[None]]


def aiolimiter(limit: int) -> Acquire:
    """The library's own example."""
    from aiolimiter import AsyncLimiter

    limiter = AsyncLimiter(limit, 1)

    async def acquire() -> None:
        await limiter.acquire()

    return acquire


def gcra(limit: int) -> Acquire:
    """A schedule: the next send is a beat after the last."""
    next_at = time.perf_counter()

    async def acquire() -> None:
        nonlocal next_at
        send_at = max(next_at, time.perf_counter())
        next_at = send_at + 1 / limit
        await asyncio.sleep(send_at - time.perf_counter())

    return acquire


LIMITERS: dict[str, Callable[[int], Acquire]] = {"aiolimiter": aiolimiter, "gcra": gcra}


async def send_all(limiter_name: str, url: str, limit: int, items: int) -> None:
    import aiohttp

    acquire = LIMITERS[limiter_name](limit)
    semaphore = asyncio.Semaphore(MAX_IN_FLIGHT)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def fetch(index: int) -> None:
            async with semaphore:
                await acquire()
                async with session.get(f"{url}/items/{index}") as response:
                    await response.read()

        await asyncio.gather(*(fetch(index) for index in range(items)))


if __name__ == "__main__":
    import uvloop

    uvloop.run(send_all(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
