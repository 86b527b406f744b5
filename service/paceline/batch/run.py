"""One batch while it runs: every item ends as exactly one `Outcome`, whatever happens to it.

A caller that gives up cancels the run and with it every item; `halt` and the service's own stop end the items but not
the run, so each still gets its outcome.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from enum import Enum
from uuid import uuid4

from msgspec import UNSET, UnsetType

from paceline.admission.permit_pool import PermitPool
from paceline.batch.cpu_slicing import LARGE_BODY_BYTES, BodyWorkQueue
from paceline.batch.outcome import OutcomeContext, outcome_from_error, outcome_from_response, outcome_without_response
from paceline.batch.request_builder import RequestBuilder
from paceline.errors import PacelineError
from paceline.events import BatchFinished, EventListener, ItemFinished
from paceline.model import Batch, ErrorCode, Expect, Item, Outcome, OutcomeKind, Receipt, Send, Summary
from paceline.upstream.pipeline import create_batch_layers, create_permit_pool, create_pipeline
from paceline.upstream.registry import UpstreamRegistry
from paceline.upstream.upstream import Upstream

_log = logging.getLogger("paceline")


class StopReason(Enum):
    """Why a run is stopped: the message, the code of items never sent, and the seconds until a retry makes sense."""

    ITEM_FAILED = ("an item before it failed and the batch says on_failure: halt", ErrorCode.HALTED, None)
    SHUTDOWN = ("the service is shutting down; send it again", ErrorCode.OVERLOADED, 1.0)


class BatchRun:
    """One batch in progress. Any number of its items may run at once."""

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
        """Tasks that have begun and have no outcome yet."""
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
        """Start an item; its task never fails, and is cancelled only with the run."""
        task = asyncio.get_running_loop().create_task(self._run_item(index, item, dependencies))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def pause(self) -> None:
        """Let nothing through the gates until `resume`; what is in flight continues, and deadlines hold."""
        assert self._permit_pool is not None, "opened as pausable"
        self._permit_pool.pause()

    def resume(self) -> None:
        """Send again after `pause`."""
        assert self._permit_pool is not None, "opened as pausable"
        self._permit_pool.resume()

    def stop(self, reason: StopReason) -> None:
        """End every item that has no outcome yet; each gets one."""
        if self._stop_reason is None:
            self._stop_reason = reason
            # Only these: a task cancelled before its first step has no outcome. The others find `_stop_reason`.
            for task in self._started_tasks:
                task.cancel()

    def finish(self) -> Summary:
        """Report the batch. Call it once, when all its items are done."""
        summary = self.summary
        batch = self._batch
        self._emit(BatchFinished(batch.strategy, self.batch_id, batch.tenant.name, summary, self.elapsed_s))
        return summary

    async def cancel(self) -> None:
        """Cancel the items in progress and wait until they have released everything."""
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
                    ErrorCode.DEPENDENCY_FAILED,
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
            send = self._pipelines.get(upstream) or self._open_pipeline(upstream)
            response = await send(request)
        except PacelineError as error:
            return outcome_from_error(context, error, time.perf_counter() - ready_at)
        except Exception:
            # An internal error must cost this item only; the log says what it was.
            _log.exception("an item ended by a fault of Paceline's own")
            return outcome_without_response(
                context,
                ErrorCode.PROTOCOL_ERROR,
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
        sent = False
        if context.receipt.attempts:
            code, sent = ErrorCode.CANCELLED, context.receipt.sent
        return outcome_without_response(context, code, message, total_s, sent=sent, retry_after_s=retry_after_s)

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


async def _wait_for_dependencies(dependencies: Sequence[asyncio.Task[Outcome]]) -> Outcome | None:
    """Wait for the dependencies of an item; return the first that was no success, at once.

    All are watched from the start: items that become ready at one moment then continue in the order of the batch, as
    the plan has them, however many dependencies each had.
    """
    for dependency in [asyncio.shield(each) for each in dependencies]:
        outcome = await dependency
        if outcome.outcome is not OutcomeKind.SUCCESS:
            return outcome
    return None
