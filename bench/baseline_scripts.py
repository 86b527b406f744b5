"""What people write by hand, as it is usually written. Run as a child; prints CPU seconds and elapsed seconds."""

from __future__ import annotations

import asyncio
import sys
import time

CONCURRENCY = 100


async def aiohttp_semaphore(url: str, items: int) -> None:
    import aiohttp

    semaphore = asyncio.Semaphore(CONCURRENCY)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def fetch(index: int) -> int:
            async with semaphore, session.get(f"{url}/items/{index}") as response:
                await response.json()
                return response.status

        statuses = await asyncio.gather(*(fetch(index) for index in range(items)))
    assert set(statuses) == {200}


async def httpx_gather(url: str, items: int) -> None:
    import httpx2

    limits = httpx2.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
    async with httpx2.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:

        async def fetch(index: int) -> int:
            response = await client.get(f"{url}/items/{index}")
            response.json()
            return response.status_code

        statuses = await asyncio.gather(*(fetch(index) for index in range(items)))
    assert set(statuses) == {200}


def main() -> None:
    name, url, items = sys.argv[1], sys.argv[2], int(sys.argv[3])
    script = {"aiohttp_semaphore": aiohttp_semaphore, "httpx_gather": httpx_gather}[name]
    asyncio.run(script(url, 10))  # imports and first connections are not what is compared
    cpu, started_at = time.process_time(), time.perf_counter()
    asyncio.run(script(url, items))
    print(time.process_time() - cpu, time.perf_counter() - started_at)


if __name__ == "__main__":
    main()
