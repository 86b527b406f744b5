"""An event loop on which waiting takes no time.

Where nothing is ready the clock jumps to the next timer. Inside `run_virtual` the loop, `time.perf_counter`,
`time.monotonic` and `time.time` tell the same virtual time, so product code and loop timers agree to the bit.
Work given to a thread is waited for in real time and takes none on the virtual clock.

Sockets are refused: a real peer needs real time, and the clock would jump past it.
"""

from __future__ import annotations

import asyncio
import functools
import math
import selectors
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, ParamSpec, TypeVar
from unittest import mock

T = TypeVar("T")
P = ParamSpec("P")

THREAD_TIMEOUT_S = 30.0
"""Real seconds to wait for a thread before it is called stuck."""

TURNS_WITHOUT_PROGRESS = 1_000_000
"""Loop turns at one moment before it is called a busy loop."""

_real_perf_counter = time.perf_counter
_real_time = time.time


class Deadlock(RuntimeError):
    """Everything waits and nothing can ever wake it: a real loop would hang here."""


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """A selector loop whose `time()` starts at `start` and moves only by jumping to the next timer."""

    def __init__(self, start: float = 1_000.0) -> None:
        self.now = start
        self._threads = 0
        super().__init__(_JumpingSelector(self))
        self.jump(start)

    def time(self) -> float:
        return self.now

    def jump(self, moment: float) -> None:
        self.now = max(self.now, moment)
        # The loop runs what is due within this: one step of a float, so that no timer fires early.
        self._clock_resolution = math.ulp(self.now)

    def next_timer(self) -> float | None:
        """The moment of the earliest live timer; the loop has dropped cancelled ones from the head by now."""
        return self._scheduled[0].when() if self._scheduled else None

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self) -> None:
        self._threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._threads -= 1

    @property
    def waits_for_threads(self) -> bool:
        return self._threads > 0

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._threads -= 1


class _JumpingSelector(selectors.DefaultSelector):
    """Moves the loop's clock instead of sleeping."""

    def __init__(self, loop: VirtualClockLoop) -> None:
        super().__init__()
        self._loop = loop
        self._turns = 0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self.get_map():  # the first is the loop's own wake-up pipe
            raise RuntimeError("no sockets in virtual time: use an in-memory transport, or a plain async test")
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            self._turns += 1
            if self._turns > TURNS_WITHOUT_PROGRESS:
                raise Deadlock(f"busy loop: {TURNS_WITHOUT_PROGRESS} turns at {self._loop.now} and no wait")
            return super().select(0)
        self._turns = 0
        if self._loop.waits_for_threads:
            woken = super().select(THREAD_TIMEOUT_S)
            if not woken:
                raise Deadlock(f"a thread has not come back within {THREAD_TIMEOUT_S} real seconds")
            return woken
        moment = self._loop.next_timer()
        if moment is None:
            raise Deadlock(_describe_deadlock(self._loop))
        self._loop.jump(moment)
        return super().select(0)


def run_virtual(main: Coroutine[Any, Any, T], *, start: float = 1_000.0) -> T:
    """Run `main` in virtual time and return its result.

    An exception of a callback, or of a task that is never awaited, fails the test instead of going to the log.

    Raises:
        Deadlock: nothing is ready, no timer is set and no thread is at work.
    """
    uncaught: list[BaseException] = []
    wall = _real_time() - start

    def record(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        uncaught.append(context.get("exception") or RuntimeError(context["message"]))

    with ExitStack() as patches, asyncio.Runner(loop_factory=lambda: VirtualClockLoop(start)) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(record)

        def in_ns() -> int:
            return int(loop.time() * 1e9)

        def wall_clock() -> float:
            return wall + loop.time()

        virtual = {"perf_counter": loop.time, "perf_counter_ns": in_ns, "monotonic": loop.time}
        virtual |= {"monotonic_ns": in_ns, "time": wall_clock}
        patches.enter_context(mock.patch.multiple(time, **virtual))
        result = runner.run(main)
    if uncaught:
        raise BaseExceptionGroup("raised where no caller could catch it", uncaught)
    return result


def virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Decorate an `async def` test (or a property under `@given`) so that it runs in virtual time.

    Synchronous fixtures work as ever; async ones live on another loop and do not.
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_virtual(test(*args, **kwargs))

    return run


def _describe_deadlock(loop: asyncio.AbstractEventLoop) -> str:
    waiting = "\n".join(f"  {task!r}" for task in asyncio.all_tasks(loop))
    return f"nothing is ready, no timer is set and no thread is at work; waiting:\n{waiting}"
