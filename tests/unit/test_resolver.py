"""The system's resolver, asked in threads that nobody waits for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from paceline.transport import resolver as module
from paceline.transport.resolver import SystemResolver


async def test_a_name_asked_for_many_times_at_once_is_looked_up_once():
    asked: list[str] = []
    go = threading.Event()

    def system(host: str) -> list[str]:
        asked.append(host)
        go.wait(10)
        return ["8.8.8.8"]

    lookup = SystemResolver(system)
    calls = [asyncio.create_task(lookup("api.example")) for _ in range(50)]
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*calls) == [["8.8.8.8"]] * 50
    assert asked == ["api.example"]
    assert await lookup("api.example") == ["8.8.8.8"]
    assert asked == ["api.example"] * 2  # nothing is remembered: the next connection asks anew


async def test_the_resolver_s_error_reaches_everybody_who_asked():
    def system(host: str) -> list[str]:
        raise OSError("no such name")

    lookup = SystemResolver(system)
    results = await asyncio.gather(*(lookup("api.example") for _ in range(3)), return_exceptions=True)
    assert [str(each) for each in results] == ["no such name"] * 3


async def test_an_answer_nobody_waits_for_is_dropped_quietly():
    go = threading.Event()

    def system(host: str) -> list[str]:
        go.wait(10)
        raise OSError("late")

    lookup = SystemResolver(system)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await lookup("api.example")
    go.set()
    await asyncio.sleep(0.05)
    with pytest.raises(OSError, match="late"):
        await lookup("api.example")


async def test_lookups_beyond_the_bound_wait_for_a_thread(monkeypatch):
    monkeypatch.setattr(module, "MAX_LOOKUPS", 2)
    go, running, most = threading.Event(), 0, 0
    lock = threading.Lock()

    def system(host: str) -> list[str]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go.wait(10)
        with lock:
            running -= 1
        return [host]

    lookup = SystemResolver(system)
    calls = [asyncio.create_task(lookup(f"h{n}")) for n in range(6)]
    await asyncio.sleep(0.05)
    go.set()
    assert await asyncio.gather(*calls) == [[f"h{n}"] for n in range(6)]
    assert most == 2


async def test_the_system_knows_localhost():
    assert "127.0.0.1" in await SystemResolver()("localhost")
