"""The fan-out of one batch: every item ends as exactly one `Outcome`, whatever happens to it.

All strategies run here and differ only in their layers and in whether items take turns. A caller that gives up cancels
the run and with it every item; `halt` and the service's own stop end the items but not the run, so each still gets its
outcome.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from uuid import uuid4

from msgspec import UNSET, UnsetType

from paceline.admission.permit_pool import PermitPool
from paceline.batch.cpu_slicing import LARGE_BODY_BYTES, BodyWorkQueue
from paceline.batch.dependency_order import topological_order
from paceline.batch.outcome import OutcomeContext, outcome_from_error, outcome_from_response, outcome_without_response
from paceline.batch.request_builder import RequestBuilder
from paceline.errors import PacelineError
from paceline.events import BatchFinished, EventListener, ItemFinished, combine_listeners
from paceline.model import Batch, Expect, Item, Outcome, OutcomeKind, Receipt, Send, Strategy, Summary
from paceline.upstream.pipeline import create_batch_layers, create_permit_pool, create_pipeline
from paceline.upstream.registry import Upstream, UpstreamRegistry

_log = logging.getLogger("paceline")

_MAX_STARTS_PER_SLICE = 24
"""The most items started before the event loop gets a turn; fewer where they are dear to prepare."""

_SLICE_BUDGET_S = 0.01
"""How long the items of one slice may take."""

OnOutcome = Callable[[Outcome], None]


class StopReason(Enum):
    """Why a run's items are ended before their time: what is said, the code of those never sent, when to try again."""

    ITEM_FAILED = ("an item before it failed and the batch says on_failure: halt", "halted", None)
    SHUTDOWN = ("the service is shutting down; send it again", "overloaded", 1.0)


class BatchRun:
    """One batch on its way. `item` may be awaited for many items at once."""

    def __init__(
        self, registry: UpstreamRegistry, emit: EventListener, batch: Batch, body_work: BodyWorkQueue, *, pausable: bool
    ) -> None:
        self.batch_id = uuid4().hex
        self._body_work = body_work
        self._batch = batch
        self._emit = emit
        self._began_at = time.perf_counter()
        self._request_builder = RequestBuilder(registry, batch, self._began_at + batch.deadline_s)
        self._batch_layers = create_batch_layers(batch)
        self._permit_pool = create_permit_pool(batch) or (PermitPool() if pausable else None)
        self._pipelines: dict[Upstream, Send] = {}
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._started_tasks: set[asyncio.Task[Outcome]] = set()
        """Those on their way: begun, and without their outcome yet."""
        self._stop_reason: StopReason | None = None
        self._counts = [0, 0, 0, 0, 0, 0]

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._began_at

    @property
    def summary(self) -> Summary:
        return Summary(*self._counts)

    def start_item(
        self, index: int, item: Item, dependencies: Sequence[asyncio.Task[Outcome]] = ()
    ) -> asyncio.Task[Outcome]:
        """Set an item on its way; its task never fails, and is cancelled only with the run."""
        task = asyncio.get_running_loop().create_task(self._run_item(index, item, dependencies))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def pause(self) -> None:
        """Let nothing through the gates until `go_on`; what is in flight goes on, and deadlines hold."""
        assert self._permit_pool is not None, "opened as holdable"
        self._permit_pool.pause()

    def resume(self) -> None:
        """Send again after `hold`."""
        assert self._permit_pool is not None, "opened as holdable"
        self._permit_pool.resume()

    def stop(self, reason: StopReason) -> None:
        """End every item that has no outcome yet; each gets one."""
        if self._stop_reason is None:
            self._stop_reason = reason
            # A task cancelled before its first step ends without its outcome: those that have not begun see `_ending`.
            for task in self._started_tasks:
                task.cancel()

    def finish(self) -> Summary:
        """Report the batch; once, when all its items are done."""
        summary = self.summary
        batch = self._batch
        self._emit(BatchFinished(batch.strategy, self.batch_id, batch.tenant.name, summary, self.elapsed_s))
        return summary

    async def cancel(self) -> None:
        """Cancel what is still on its way and wait until it has let go."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_item(self, index: int, item: Item, dependencies: Sequence[asyncio.Task[Outcome]]) -> Outcome:
        context = OutcomeContext(
            id=str(index) if item.id is UNSET else item.id,
            index=index,
            expect=self._resolve_expect(item.expect),
            start_s=0.0,
            receipt=Receipt(),
        )
        ready_at: float | None = None
        task = asyncio.current_task()
        assert task is not None
        self._started_tasks.add(task)
        try:
            failed_dependency = await _wait_for_dependencies(dependencies) if dependencies else None
            ready_at = time.perf_counter()
            context.start_s = ready_at - self._began_at
            if failed_dependency is not None:
                outcome = outcome_without_response(
                    context,
                    OutcomeKind.DEPENDENCY_FAILED,
                    "dependency_failed",
                    f"it depends on {failed_dependency.id!r}, which ended as {failed_dependency.outcome.value}",
                    0.0,
                )
            elif self._stop_reason is not None:
                outcome = self._stopped_outcome(context, self._stop_reason, 0.0)
            else:
                outcome = await self._send_item(context, item, ready_at)
        except asyncio.CancelledError:
            if self._stop_reason is None:
                raise
            task.uncancel()
            now = time.perf_counter()
            if ready_at is None:  # it still waited for others: its own time has not begun
                ready_at = now
                context.start_s = now - self._began_at
            outcome = self._stopped_outcome(context, self._stop_reason, now - ready_at)
        self._started_tasks.discard(task)
        self._record_outcome(outcome)
        return outcome

    async def _send_item(self, context: OutcomeContext, item: Item, ready_at: float) -> Outcome:
        try:
            upstream, request = self._request_builder.build(item)
            context.upstream = upstream.name
            context.receipt = request.receipt
            context.method = request.method
            context.transient_statuses = request.retry.statuses
            send = self._pipelines.get(upstream) or self._open_pipeline(upstream)
            response = await send(request)
        except PacelineError as error:
            return outcome_from_error(context, error, time.perf_counter() - ready_at)
        except Exception:
            # A fault of our own must cost this item only; the log says what it was.
            _log.exception("an item ended by a fault of Paceline's own")
            return outcome_without_response(
                context,
                OutcomeKind.PROTOCOL_ERROR,
                "protocol_error",
                "a fault of Paceline's own; its log says which",
                time.perf_counter() - ready_at,
                sent=context.receipt.sent,
            )
        total_s = time.perf_counter() - ready_at
        if len(response.body) > LARGE_BODY_BYTES:
            await self._body_work.wait_turn(len(response.body))
        return outcome_from_response(context, response, total_s)

    def _open_pipeline(self, upstream: Upstream) -> Send:
        send = self._pipelines[upstream] = create_pipeline(
            self._batch, upstream, self._batch_layers, self._permit_pool, self._emit
        )
        return send

    def _stopped_outcome(self, context: OutcomeContext, reason: StopReason, total_s: float) -> Outcome:
        message, code, retry_after_s = reason.value
        kind, sent = OutcomeKind.REJECTED, False
        if context.receipt.attempts:
            kind, code, sent = OutcomeKind.CANCELLED, "cancelled", context.receipt.sent
        return outcome_without_response(context, kind, code, message, total_s, sent=sent, retry_after_s=retry_after_s)

    def _record_outcome(self, outcome: Outcome) -> None:
        counts = self._counts
        counts[0] += 1
        if outcome.outcome is OutcomeKind.SUCCESS:
            counts[1] += 1
        elif outcome.outcome is OutcomeKind.REJECTED:
            counts[3] += 1
        else:
            counts[2] += 1
        counts[4] += outcome.attempts
        counts[5] += max(0, outcome.attempts - 1)
        self._emit(ItemFinished(self._batch.strategy, outcome.upstream, outcome))
        if self._batch.halt and outcome.outcome is not OutcomeKind.SUCCESS:
            self.stop(StopReason.ITEM_FAILED)

    def _resolve_expect(self, expect: Expect | UnsetType) -> Expect:
        if expect is UNSET:
            expect = self._batch.defaults.expect
        return Expect.AUTO if expect is UNSET else expect


class BatchRunner:
    """Runs batches and knows which are on their way."""

    def __init__(self, registry: UpstreamRegistry, emit: EventListener) -> None:
        self._registry = registry
        self._emit = emit
        self._runs: set[BatchRun] = set()
        self._body_work = BodyWorkQueue()

    def open_run(
        self, batch: Batch, extra_listener: EventListener | None = None, *, pausable: bool = False
    ) -> BatchRun:
        """A run to start items on one by one; the caller closes it with `finish` and `forget`.

        `also` is told what happens in this run alone. Only a `holdable` one can be held: it costs each call a look.
        """
        listener = self._emit if extra_listener is None else combine_listeners(self._emit, extra_listener)
        run = BatchRun(self._registry, listener, batch, self._body_work, pausable=pausable)
        self._runs.add(run)
        return run

    def discard_run(self, run: BatchRun) -> None:
        self._runs.discard(run)

    @property
    def active_batches(self) -> int:
        """Batches on their way."""
        return len(self._runs)

    def stop_all(self) -> None:
        """End every item of every batch now; each gets its outcome."""
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
    """An order to start items in, and the tasks that others wait for (only those, so that bodies are not kept)."""

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


async def _wait_for_dependencies(dependencies: Sequence[asyncio.Task[Outcome]]) -> Outcome | None:
    """Wait for what an item depends on; the first of it that was no success ends the wait."""
    for dependency in dependencies:
        outcome = await asyncio.shield(dependency)
        if outcome.outcome is not OutcomeKind.SUCCESS:
            return outcome
    return None
