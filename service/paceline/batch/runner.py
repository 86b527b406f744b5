"""The fan-out of batches: which items start when, and which batches are running.

All strategies run here and differ only in their layers and in whether one item ends before the next one starts.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from paceline.batch.cpu_slicing import BodyWorkQueue
from paceline.batch.dependency_order import topological_order
from paceline.batch.run import BatchRun, StopReason
from paceline.events import EventListener, combine_listeners
from paceline.model import Batch, Item, Outcome, Strategy, Summary
from paceline.upstream.registry import UpstreamRegistry

_MAX_STARTS_PER_SLICE = 24
"""The most items started before the event loop gets a turn; fewer where they take long to prepare."""

_SLICE_BUDGET_S = 0.01
"""How long the items of one slice may take."""

OnOutcome = Callable[[Outcome], None]


class BatchRunner:
    """Runs batches and knows which are in progress."""

    def __init__(self, registry: UpstreamRegistry, emit: EventListener) -> None:
        self._registry = registry
        self._emit = emit
        self._runs: set[BatchRun] = set()
        self._body_work = BodyWorkQueue()

    def open_run(
        self, batch: Batch, extra_listener: EventListener | None = None, *, pausable: bool = False
    ) -> BatchRun:
        """A run to start items on one by one; the caller ends it with `finish` and `discard_run`.

        `extra_listener` receives the events of this run alone. Only a `pausable` run can be paused: its gates check a
        permit pool for every call.
        """
        listener = self._emit if extra_listener is None else combine_listeners(self._emit, extra_listener)
        run = BatchRun(self._registry, listener, batch, self._body_work, pausable=pausable)
        self._runs.add(run)
        return run

    def discard_run(self, run: BatchRun) -> None:
        self._runs.discard(run)

    @property
    def active_batches(self) -> int:
        """The number of batches in progress."""
        return len(self._runs)

    def stop_all(self) -> None:
        """Stop every item of every batch now; each gets its outcome."""
        for run in list(self._runs):
            run.stop(StopReason.SHUTDOWN)

    async def run(self, batch: Batch, on_outcome: OnOutcome, run: BatchRun | None = None) -> Summary:
        """Run a checked batch and report each outcome as it comes, in order of completion.

        Cancelling this cancels every item.
        """
        run = run or self.open_run(batch)
        try:
            if batch.strategy is Strategy.SEQUENTIAL:
                await _run_sequentially(run, batch, on_outcome)
            else:
                await _run_concurrently(run, batch, on_outcome)
            return run.finish()
        finally:
            await run.cancel()
            self.discard_run(run)


async def _run_sequentially(run: BatchRun, batch: Batch, on_outcome: OnOutcome) -> None:
    schedule = DependencySchedule(batch.items)
    for index in schedule:
        on_outcome(await schedule.start_item(run, index))


async def _run_concurrently(run: BatchRun, batch: Batch, on_outcome: OnOutcome) -> None:
    done_tasks: deque[asyncio.Task[Outcome]] = deque()
    any_done = asyncio.Event()

    def on_done(task: asyncio.Task[Outcome]) -> None:
        done_tasks.append(task)
        any_done.set()

    def report_done() -> int:
        count = len(done_tasks)
        while done_tasks:
            on_outcome(done_tasks.popleft().result())
        return count

    schedule = DependencySchedule(batch.items)
    remaining = len(batch.items)
    slice_size, started = _MAX_STARTS_PER_SLICE // 4, 0
    for index in schedule:
        schedule.start_item(run, index).add_done_callback(on_done)
        started += 1
        if started == slice_size:
            began_at = time.perf_counter()
            await asyncio.sleep(0)
            remaining -= report_done()
            slice_size = (
                max(1, slice_size // 2)
                if time.perf_counter() - began_at > _SLICE_BUDGET_S
                else min(_MAX_STARTS_PER_SLICE, slice_size * 2)
            )
            started = 0
    while remaining:
        await any_done.wait()
        any_done.clear()
        remaining -= report_done()


class DependencySchedule:
    """The order to start items in, and the tasks that other items depend on: only those, so that no body is kept."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._dependencies, self._order = topological_order(items)
        self._depended_on = {need for wanted in self._dependencies.values() for need in wanted}
        self._tasks: dict[int, asyncio.Task[Outcome]] = {}

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)

    def start_item(self, run: BatchRun, index: int) -> asyncio.Task[Outcome]:
        task = run.start_item(
            index, self._items[index], [self._tasks[need] for need in self._dependencies.get(index, ())]
        )
        if index in self._depended_on:
            self._tasks[index] = task
        return task
