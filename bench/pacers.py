"""How a rate is kept by hand, as it is usually written. Run as a child: sends all items and ends."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

IN_FLIGHT = 1000

Wait = Callable[[], Awaitable[None]]


def aiolimiter(limit: int) -> Wait:
    """The library's own example."""
    from aiolimiter import AsyncLimiter

    limiter = AsyncLimiter(limit, 1)

    async def wait() -> None:
        await limiter.acquire()

    return wait


def gcra(limit: int) -> Wait:
    """A schedule: the next send is a beat after the last."""
    next_at = time.perf_counter()

    async def wait() -> None:
        nonlocal next_at
        mine = max(next_at, time.perf_counter())
        next_at = mine + 1 / limit
        await asyncio.sleep(mine - time.perf_counter())

    return wait


PACERS: dict[str, Callable[[int], Wait]] = {"aiolimiter": aiolimiter, "gcra": gcra}


async def drain(pacer: str, url: str, limit: int, items: int) -> None:
    import aiohttp

    wait = PACERS[pacer](limit)
    semaphore = asyncio.Semaphore(IN_FLIGHT)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def fetch(index: int) -> None:
            async with semaphore:
                await wait()
                async with session.get(f"{url}/items/{index}") as response:
                    await response.read()

        await asyncio.gather(*(fetch(index) for index in range(items)))


if __name__ == "__main__":
    import uvloop

    uvloop.run(drain(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
