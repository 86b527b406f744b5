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

from paceline.admission.allowance import Allowance
from paceline.batch.order import in_order
from paceline.batch.outcome import Subject, answered, failed, refused
from paceline.batch.prepare import Preparation
from paceline.batch.turns import LARGE, Turns
from paceline.errors import PacelineError
from paceline.events import BatchFinished, ItemFinished, Listener, tell
from paceline.model import Batch, Expect, Item, Outcome, OutcomeKind, Receipt, Send, Strategy, Summary
from paceline.upstream.pipeline import own_allowance, own_layers, pipeline
from paceline.upstream.registry import Registry, Upstream

_log = logging.getLogger("paceline")

_SLICE = 24
"""The most items started before the event loop gets a turn; fewer where they are dear to prepare."""

_SLICE_S = 0.01
"""How long the items of one slice may take."""

OnOutcome = Callable[[Outcome], None]


class Ending(Enum):
    """Why a run's items are ended before their time: what is said, the code of those never sent, when to try again."""

    HALT = ("an item before it failed and the batch says on_failure: halt", "halted", None)
    STOP = ("the service is shutting down; send it again", "overloaded", 1.0)


class Run:
    """One batch on its way. `item` may be awaited for many items at once."""

    def __init__(self, registry: Registry, tell: Listener, batch: Batch, turns: Turns, *, holdable: bool) -> None:
        self.batch_id = uuid4().hex
        self._turns = turns
        self._batch = batch
        self._tell = tell
        self._began_at = time.perf_counter()
        self._preparation = Preparation(registry, batch, self._began_at + batch.deadline_s)
        self._own = own_layers(batch)
        self._allowance = own_allowance(batch) or (Allowance() if holdable else None)
        self._pipelines: dict[Upstream, Send] = {}
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._begun: set[asyncio.Task[Outcome]] = set()
        """Those on their way: begun, and without their outcome yet."""
        self._ending: Ending | None = None
        self._counts = [0, 0, 0, 0, 0, 0]

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._began_at

    @property
    def summary(self) -> Summary:
        return Summary(*self._counts)

    def start(self, index: int, item: Item, needs: Sequence[asyncio.Task[Outcome]] = ()) -> asyncio.Task[Outcome]:
        """Set an item on its way; its task never fails, and is cancelled only with the run."""
        task = asyncio.get_running_loop().create_task(self._item(index, item, needs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def hold(self) -> None:
        """Let nothing through the gates until `go_on`; what is in flight goes on, and deadlines hold."""
        assert self._allowance is not None, "opened as holdable"
        self._allowance.shut()

    def go_on(self) -> None:
        """Send again after `hold`."""
        assert self._allowance is not None, "opened as holdable"
        self._allowance.reopen()

    def end(self, ending: Ending) -> None:
        """End every item that has no outcome yet; each gets one."""
        if self._ending is None:
            self._ending = ending
            # A task cancelled before its first step ends without its outcome: those that have not begun see `_ending`.
            for task in self._begun:
                task.cancel()

    def finish(self) -> Summary:
        """Report the batch; once, when all its items are done."""
        summary = self.summary
        batch = self._batch
        self._tell(BatchFinished(batch.strategy, self.batch_id, batch.tenant.name, summary, self.elapsed_s))
        return summary

    async def cancel(self) -> None:
        """Cancel what is still on its way and wait until it has let go."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _item(self, index: int, item: Item, needs: Sequence[asyncio.Task[Outcome]]) -> Outcome:
        subject = Subject(
            id=str(index) if item.id is UNSET else item.id,
            index=index,
            expect=self._expect(item.expect),
            start_s=0.0,
            receipt=Receipt(),
        )
        ready_at: float | None = None
        task = asyncio.current_task()
        assert task is not None
        self._begun.add(task)
        try:
            broken = await _first_failure(needs) if needs else None
            ready_at = time.perf_counter()
            subject.start_s = ready_at - self._began_at
            if broken is not None:
                outcome = failed(
                    subject,
                    OutcomeKind.DEPENDENCY_FAILED,
                    "dependency_failed",
                    f"it depends on {broken.id!r}, which ended as {broken.outcome.value}",
                    0.0,
                )
            elif self._ending is not None:
                outcome = self._ended(subject, self._ending, 0.0)
            else:
                outcome = await self._send(subject, item, ready_at)
        except asyncio.CancelledError:
            if self._ending is None:
                raise
            task.uncancel()
            now = time.perf_counter()
            if ready_at is None:  # it still waited for others: its own time has not begun
                ready_at = now
                subject.start_s = now - self._began_at
            outcome = self._ended(subject, self._ending, now - ready_at)
        self._begun.discard(task)
        self._count(outcome)
        return outcome

    async def _send(self, subject: Subject, item: Item, ready_at: float) -> Outcome:
        try:
            upstream, request = self._preparation.request(item)
            subject.upstream = upstream.name
            subject.receipt = request.receipt
            subject.method = request.method
            subject.transient = request.retry.statuses
            send = self._pipelines.get(upstream) or self._open(upstream)
            response = await send(request)
        except PacelineError as error:
            return refused(subject, error, time.perf_counter() - ready_at)
        except Exception:
            # A fault of our own must cost this item only; the log says what it was.
            _log.exception("an item ended by a fault of Paceline's own")
            return failed(
                subject,
                OutcomeKind.PROTOCOL_ERROR,
                "protocol_error",
                "a fault of Paceline's own; its log says which",
                time.perf_counter() - ready_at,
                sent=subject.receipt.sent,
            )
        total_s = time.perf_counter() - ready_at
        if len(response.body) > LARGE:
            await self._turns.turn(len(response.body))
        return answered(subject, response, total_s)

    def _open(self, upstream: Upstream) -> Send:
        send = self._pipelines[upstream] = pipeline(self._batch, upstream, self._own, self._allowance, self._tell)
        return send

    def _ended(self, subject: Subject, ending: Ending, total_s: float) -> Outcome:
        message, code, again_s = ending.value
        kind, sent = OutcomeKind.REJECTED, False
        if subject.receipt.attempts:
            kind, code, sent = OutcomeKind.CANCELLED, "cancelled", subject.receipt.sent
        return failed(subject, kind, code, message, total_s, sent=sent, retry_after_s=again_s)

    def _count(self, outcome: Outcome) -> None:
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
        self._tell(ItemFinished(self._batch.strategy, outcome.upstream, outcome))
        if self._batch.halt and outcome.outcome is not OutcomeKind.SUCCESS:
            self.end(Ending.HALT)

    def _expect(self, expect: Expect | UnsetType) -> Expect:
        if expect is UNSET:
            expect = self._batch.defaults.expect
        return Expect.AUTO if expect is UNSET else expect


class Runner:
    """Runs batches and knows which are on their way."""

    def __init__(self, registry: Registry, tell: Listener) -> None:
        self._registry = registry
        self._tell = tell
        self._runs: set[Run] = set()
        self._turns = Turns()

    def open(self, batch: Batch, also: Listener | None = None, *, holdable: bool = False) -> Run:
        """A run to start items on one by one; the caller closes it with `finish` and `forget`.

        `also` is told what happens in this run alone. Only a `holdable` one can be held: it costs each call a look.
        """
        listener = self._tell if also is None else tell(self._tell, also)
        run = Run(self._registry, listener, batch, self._turns, holdable=holdable)
        self._runs.add(run)
        return run

    def forget(self, run: Run) -> None:
        self._runs.discard(run)

    @property
    def active(self) -> int:
        """Batches on their way."""
        return len(self._runs)

    def stop(self) -> None:
        """End every item of every batch now; each gets its outcome."""
        for run in list(self._runs):
            run.end(Ending.STOP)

    async def run(self, batch: Batch, on_outcome: OnOutcome, run: Run | None = None) -> Summary:
        """Run a checked batch and report each outcome as it comes, in order of completion.

        Cancelling this cancels every item.
        """
        run = run or self.open(batch)
        try:
            if batch.strategy is Strategy.SEQUENTIAL:
                await _one_by_one(run, batch, on_outcome)
            else:
                await _all_at_once(run, batch, on_outcome)
            return run.finish()
        finally:
            await run.cancel()
            self.forget(run)


async def _one_by_one(run: Run, batch: Batch, on_outcome: OnOutcome) -> None:
    order = Order(batch.items)
    for index in order:
        on_outcome(await order.start(run, index))


async def _all_at_once(run: Run, batch: Batch, on_outcome: OnOutcome) -> None:
    ended: deque[asyncio.Task[Outcome]] = deque()
    news = asyncio.Event()

    def finished(task: asyncio.Task[Outcome]) -> None:
        ended.append(task)
        news.set()

    def report() -> int:
        count = len(ended)
        while ended:
            on_outcome(ended.popleft().result())
        return count

    order = Order(batch.items)
    left = len(batch.items)
    size, started = _SLICE // 4, 0
    for index in order:
        order.start(run, index).add_done_callback(finished)
        started += 1
        if started == size:
            began_at = time.perf_counter()
            await asyncio.sleep(0)
            left -= report()
            size = max(1, size // 2) if time.perf_counter() - began_at > _SLICE_S else min(_SLICE, size * 2)
            started = 0
    while left:
        await news.wait()
        news.clear()
        left -= report()


class Order:
    """An order to start items in, and the tasks that others wait for (only those, so that bodies are not kept)."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._needs, self._order = in_order(items)
        self._needed = {need for wanted in self._needs.values() for need in wanted}
        self._tasks: dict[int, asyncio.Task[Outcome]] = {}

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)

    def start(self, run: Run, index: int) -> asyncio.Task[Outcome]:
        task = run.start(index, self._items[index], [self._tasks[need] for need in self._needs.get(index, ())])
        if index in self._needed:
            self._tasks[index] = task
        return task


async def _first_failure(needs: Sequence[asyncio.Task[Outcome]]) -> Outcome | None:
    """Wait for what an item depends on; the first of it that was no success ends the wait."""
    for need in needs:
        outcome = await asyncio.shield(need)
        if outcome.outcome is not OutcomeKind.SUCCESS:
            return outcome
    return None
