from __future__ import annotations

import asyncio

import aiohttp
import pytest


@pytest.mark.parametrize(
    ("path", "status", "size"),
    [("/get", 200, None), ("/status/503", 503, 0), ("/stream-bytes/1000", 200, 1000), ("/bearer", 401, 0)],
)
async def test_httpbin_answers(httpbin: str, path: str, status: int, size: int | None) -> None:
    async with aiohttp.ClientSession() as session, session.get(httpbin + path) as answer:
        body = await answer.read()
    assert answer.status == status
    assert size is None or len(body) == size


@pytest.mark.parametrize(("path", "flag"), [("/gzip", "gzipped"), ("/brotli", "brotli"), ("/deflate", "deflated")])
async def test_httpbin_encodes_its_answers(httpbin: str, path: str, flag: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(httpbin + path) as answer:
        assert (await answer.json())[flag] is True


async def test_httpbin_serves_many_at_once(httpbin: str) -> None:
    async def get(session: aiohttp.ClientSession) -> int:
        async with session.get(httpbin + "/delay/1") as answer:
            return answer.status

    began = asyncio.get_running_loop().time()
    async with aiohttp.ClientSession() as session:
        assert await asyncio.gather(*(get(session) for _ in range(16))) == [200] * 16
    assert asyncio.get_running_loop().time() - began < 12  # one after another it would be 16
