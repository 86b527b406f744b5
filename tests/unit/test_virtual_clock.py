from __future__ import annotations

import asyncio
import socket
import time

import pytest
from aiolimiter import AsyncLimiter
from hypothesis import given
from hypothesis import strategies as st

from support import virtual_clock
from support.virtual_clock import Deadlock, run_virtual, virtual_time


def test_an_hour_of_sleep_takes_no_time() -> None:
    async def main() -> float:
        began = time.perf_counter()
        await asyncio.sleep(3600)
        return time.perf_counter() - began

    began = time.perf_counter()
    assert run_virtual(main()) == 3600
    assert time.perf_counter() - began < 60


@virtual_time
async def test_the_loop_and_both_clocks_agree_to_the_bit() -> None:
    loop = asyncio.get_running_loop()
    woke: list[tuple[float, float, float]] = []
    due = [loop.time() + delay for delay in (0.1, 0.3, 0.7)]
    for moment in due:
        loop.call_at(moment, lambda: woke.append((loop.time(), time.perf_counter(), time.monotonic())))
    await asyncio.sleep(1)
    assert woke == [(moment, moment, moment) for moment in due]


@virtual_time
async def test_the_wall_clock_moves_along() -> None:
    wall, moment = time.time(), time.perf_counter()
    await asyncio.sleep(90)
    assert time.time() - wall == pytest.approx(90)
    assert time.perf_counter() - moment == 90


def test_the_real_clocks_come_back_even_after_a_failure() -> None:
    before = (time.perf_counter, time.monotonic, time.time, time.perf_counter_ns)

    async def main() -> None:
        raise ValueError("the test's own")

    with pytest.raises(ValueError, match="the test's own"):
        run_virtual(main())
    assert (time.perf_counter, time.monotonic, time.time, time.perf_counter_ns) == before


def test_a_wait_that_nothing_can_end_is_a_deadlock() -> None:
    async def waits_for_godot() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="waits_for_godot"):
        run_virtual(waits_for_godot())


@virtual_time
async def test_a_cancelled_timer_is_not_jumped_to() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    loop.call_later(5, lambda: None).cancel()
    await asyncio.sleep(10)
    assert loop.time() - began == 10


def test_a_cancelled_timer_does_not_hide_a_deadlock() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(5, lambda: None).cancel()
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run_virtual(main())


def test_a_busy_loop_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_clock, "TURNS_WITHOUT_PROGRESS", 1_000)

    async def spins() -> None:
        while True:  # noqa: ASYNC110 - a loop that never ends is what is tested
            await asyncio.sleep(0)

    with pytest.raises(Deadlock, match="busy loop"):
        run_virtual(spins())


@virtual_time
async def test_a_thread_is_waited_for_and_takes_no_virtual_time() -> None:
    began = time.perf_counter()
    early = asyncio.ensure_future(asyncio.sleep(0.001))
    assert await asyncio.to_thread(_nap) == "back"
    assert time.perf_counter() == began
    await early
    assert time.perf_counter() - began == pytest.approx(0.001)


def _nap() -> str:
    time.sleep(0.05)
    return "back"


@virtual_time
async def test_timeouts_fire_at_their_moment() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout_at(began + 2.5):
            await asyncio.Event().wait()
    assert loop.time() == began + 2.5


@virtual_time
async def test_sockets_are_refused() -> None:
    here, there = socket.socketpair()
    here.setblocking(False)
    with here, there, pytest.raises(RuntimeError, match="no sockets in virtual time"):
        await asyncio.get_running_loop().sock_recv(here, 1)


def test_what_a_callback_raises_fails_the_test() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(1, lambda: 1 // 0)
        await asyncio.sleep(2)

    with pytest.raises(BaseExceptionGroup) as caught:
        run_virtual(main())
    assert caught.group_contains(ZeroDivisionError)


@virtual_time
async def test_aiolimiter_paces_on_the_virtual_clock() -> None:
    limiter = AsyncLimiter(1, 0.5)
    began = time.perf_counter()
    for _ in range(21):
        await limiter.acquire()
    assert time.perf_counter() - began == pytest.approx(10)


@virtual_time
async def test_a_timer_closer_than_the_system_clock_can_tell_is_not_early() -> None:
    due = time.perf_counter() + 5e-10
    woke: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_at(due, lambda: woke.set_result(time.perf_counter()))
    await asyncio.sleep(0)  # a turn that has something to do does not wait, and looks at the timers all the same
    assert not woke.done()
    assert await woke == due


@given(delays=st.lists(st.floats(min_value=0, max_value=1e5), min_size=1, max_size=20))
@virtual_time
async def test_sleepers_wake_in_order_and_never_early(delays: list[float]) -> None:
    woke: list[float] = []
    began = time.perf_counter()

    async def sleeper(delay: float) -> None:
        await asyncio.sleep(delay)
        assert time.perf_counter() >= began + delay
        woke.append(delay)

    async with asyncio.TaskGroup() as group:
        for delay in delays:
            group.create_task(sleeper(delay))
    assert [began + delay for delay in woke] == sorted(began + delay for delay in delays)
