"""One lane's queue before one budget: its batches' flows, their waiters, and what held them back so far.

A queue is idle (it has no active flow), ready (its head may go as soon as the gate has a permit) or blocked (its budget
cannot pay for the head, or is paused, until a moment). Time counts as a wait for the reason of the state it passed in.

`Waiter`, `BatchFlow` and `LaneQueue` refer to one another, so they share this file.
"""

from __future__ import annotations

from asyncio import Future
from collections import OrderedDict
from collections.abc import Mapping
from copy import copy
from enum import IntEnum
from math import inf
from typing import Self

from paceline.admission.budget import Budget
from paceline.admission.fair_queue import FairNode
from paceline.admission.lane import PRIORITY_WEIGHTS, Lane
from paceline.admission.permit_pool import PermitPool
from paceline.admission.wait_totals import WaitTotals
from paceline.model import ONE_REQUEST, Cost, Priority, Receipt, WaitReason
from paceline.rate.window import CopyMemo, RateWindow, TokenHold
from paceline.resilience.breaker import UNCOUNTED_TICKET

_ONE_REQUEST_AMOUNTS = tuple(ONE_REQUEST.items())
_ROUNDING_TOLERANCE = 1e-6
"""Sums and differences of fractions leave remainders of this size."""
_BULK = Priority.BULK


class QueueState(IntEnum):
    IDLE = 0
    READY = 1
    BLOCKED = 2


_READY, _BLOCKED = QueueState.READY, QueueState.BLOCKED


class BatchFlow(FairNode):
    """One batch in one queue: its waiters in order of arrival, its permit pool, and its waits where they differ."""

    __slots__ = (
        "backlog", "batch_due_at", "batch_pool", "lane", "lane_queue", "parked_at", "parked_baseline",
        "parked_reason", "priority", "unparked_at", "wait_offset", "waiters",
    )  # fmt: skip

    def __init__(
        self, parent: FairNode, lane_queue: LaneQueue, priority: Priority, batch_pool: PermitPool | None
    ) -> None:
        super().__init__(parent)
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self.lane_queue = lane_queue
        self.lane = lane_queue.lane
        self.priority = priority
        self.batch_pool = batch_pool
        self.backlog: dict[str, float] = {}
        """The total cost of its waiters, by unit."""
        self.batch_due_at = -inf
        """When the batch's own rate allowed its head, for the dispatch that unparked it."""
        self.unparked_at = -inf
        self.parked_at: float | None = None
        self.parked_reason = WaitReason.CONCURRENCY
        self.parked_baseline = (0.0, 0.0, 0.0)
        self.wait_offset = WaitTotals()

    def head(self) -> Waiter:
        return next(iter(self.waiters))

    def read_waits(self) -> tuple[float, float, float]:
        """Return the seconds waited so far for rate, concurrency and pause, as they count for one of its waiters."""
        waits, offset = self.lane_queue.waits, self.wait_offset
        return (
            waits.rate_s + offset.rate_s,
            waits.concurrency_s + offset.concurrency_s,
            waits.pause_s + offset.pause_s,
        )

    def add(self, waiter: Waiter) -> None:
        self.waiters[waiter] = None
        backlog, queued = self.backlog, self.lane_queue.budget.queued_amounts
        for unit, amount in waiter.amounts:
            backlog[unit] = backlog.get(unit, 0.0) + amount
            queued[unit] = queued.get(unit, 0.0) + amount

    def remove(self, waiter: Waiter) -> None:
        del self.waiters[waiter]
        backlog, queued = self.backlog, self.lane_queue.budget.queued_amounts
        for unit, amount in waiter.amounts:
            for holder in (backlog, queued):
                remaining = holder.get(unit, 0.0) - amount
                if remaining > _ROUNDING_TOLERANCE:
                    holder[unit] = remaining
                else:  # clients choose the names of units, so unused ones are dropped
                    holder.pop(unit, None)

    def park(self, now: float, batch_due_at: float, reason: WaitReason) -> None:
        """Take the batch out of the queue while its own permit pool blocks it, so that it blocks no other batch."""
        self.deactivate()
        self.parked_at = now
        self.parked_reason = reason
        self.batch_due_at = batch_due_at
        self.parked_baseline = self.lane_queue.waits.snapshot()

    def accrue_waits(self, now: float) -> None:
        """Bring `wait_offset` up to now: while parked, the batch waits for its own reason, not for the queue's."""
        if self.parked_at is not None:
            self.wait_offset.subtract_since(self.lane_queue.waits, self.parked_baseline)
            self.wait_offset.add(self.parked_reason, now - self.parked_at)
            self.parked_at = now
            self.parked_baseline = self.lane_queue.waits.snapshot()

    def unpark(self, now: float) -> None:
        """Return the batch to the queue."""
        self.accrue_waits(now)
        self.parked_at = None
        self.unparked_at = now
        self.batch_due_at = min(self.batch_due_at, now)
        self.activate()

    def copy(self, memo: CopyMemo) -> Self:
        """Copy this flow and its place in the queue, without its waiters."""
        clone: Self | None = memo.get(self)
        if clone is None:
            clone = super().copy(memo)
            clone.lane_queue = self.lane_queue.copy(memo)
            clone.waiters = OrderedDict()
            clone.backlog, clone.wait_offset = dict(self.backlog), copy(self.wait_offset)
            clone.batch_pool = self.batch_pool and self.batch_pool.copy(memo)
        return clone


class Waiter:
    """One attempt that waits for a grant; once granted it is the grant."""

    __slots__ = (
        "amounts", "arrival_waits", "batch_hold", "breaker_ticket", "cost", "deadline", "flow", "future",
        "granted_at", "holds", "in_flight_at_grant", "lane", "offered_at", "priority", "receipt", "settled",
        "written_at", "written_totals",
    )  # fmt: skip

    def __init__(self, flow: BatchFlow, cost: Cost, receipt: Receipt, deadline: float = inf) -> None:
        self.flow = flow
        self.lane = flow.lane
        self.priority = flow.priority
        self.cost = cost
        self.amounts = _ONE_REQUEST_AMOUNTS if cost is ONE_REQUEST else tuple(cost.items())
        self.receipt = receipt
        self.deadline = deadline
        self.future: Future[None] | None = None
        """Set by `AsyncGate` while it waits."""
        self.offered_at = inf
        self.granted_at: float | None = None
        self.written_at: float | None = None
        self.settled = False
        self.breaker_ticket = UNCOUNTED_TICKET
        self.in_flight_at_grant = 0
        """Calls in flight when it was granted, itself included."""
        self.holds: list[tuple[RateWindow, TokenHold]] = []
        self.batch_hold: TokenHold | None = None
        self.written_totals: Mapping[str, float] = {}
        """What its budget had written in total when this was written, itself included, by unit."""
        self.arrival_waits = (0.0, 0.0, 0.0)

    def copy(self, memo: CopyMemo) -> Waiter:
        """Copy this attempt, with a receipt of its own and without a future."""
        flow = self.flow.copy(memo)
        clone = Waiter(flow, self.cost, Receipt(), self.deadline)
        clone.granted_at, clone.written_at, clone.written_totals = self.granted_at, self.written_at, self.written_totals
        clone.arrival_waits, clone.offered_at = self.arrival_waits, self.offered_at
        clone.holds = [(memo[window], hold.copy(memo)) for window, hold in self.holds if window in memo]
        clone.batch_hold = self.batch_hold and self.batch_hold.copy(memo)
        pause = self.flow.lane_queue.budget.copy(memo).throttle_pause
        if pause.throttled_receipt is self.receipt:
            pause.throttled_receipt = clone.receipt
        return clone


class LaneQueue:
    """The waiters of one lane before one budget, by class, tenant, batch and arrival."""

    __slots__ = (
        "_accrued_at", "_lane_baseline", "_tenants", "block_reason", "block_sequence", "blocked_until",
        "budget", "classes", "fallback_class", "flows", "lane", "lanes", "rate_due_at", "ready_class", "root",
        "served_sequence", "state", "waits",
    )  # fmt: skip

    def __init__(self, budget: Budget, lane: Lane) -> None:
        self.budget = budget
        self.lane = lane
        self.lanes: tuple[LaneQueue, ...] = (self,)
        """The queues of both lanes before this budget; see `open_lanes`."""
        self.root = FairNode(None)
        self.classes = {priority: FairNode(self.root, weight) for priority, weight in PRIORITY_WEIGHTS.items()}
        self._tenants: dict[tuple[Priority, str], FairNode] = {}
        self.flows: set[BatchFlow] = set()
        """The flows with waiters, parked or not."""
        self.state = QueueState.IDLE
        self.ready_class: Priority | None = None
        """The class of its head, as the permit scheduler has it; None unless the queue is ready."""
        self.fallback_class: Priority | None = None
        """Where that is bulk, the class that goes when bulk may not; None where no other class waits."""
        self.served_sequence = 0
        """Set by the permit scheduler: larger, the later this queue was served."""
        self.block_reason = WaitReason.RATE
        self.blocked_until = inf
        self.block_sequence = 0
        self.rate_due_at: float | None = None
        """When the rate allowed the head, where the rate was the last to block it."""
        self.waits = WaitTotals()
        self._accrued_at = 0.0
        self._lane_baseline = (0.0, 0.0, 0.0)

    def open_flow(self, priority: Priority, tenant: str, weight: float, batch_pool: PermitPool | None) -> BatchFlow:
        """Open the flow of one batch."""
        node = self._tenants.get((priority, tenant))
        if node is None:
            node = self._tenants[priority, tenant] = FairNode(self.classes[priority])
        node.weight = weight
        return BatchFlow(node, self, priority, batch_pool)

    def head_class(self, include_bulk: bool) -> Priority | None:
        """Return the class to serve next; None where no class is active (but bulk, unless `include_bulk`)."""
        best: Priority | None = None
        start = inf
        only_one = self.root.active_children == 1
        for priority, node in self.classes.items():
            if (
                node.active_children
                and (node.start_tag < start or best is None)
                and (include_bulk or priority is not _BULK)
            ):
                if only_one:
                    return priority
                best, start = priority, node.start_tag
        return best

    def head_flow(self, include_bulk: bool) -> BatchFlow | None:
        """Return the batch to serve next; for a probe, another one than the throttled item's where there is one."""
        priority = self.ready_class if include_bulk else None
        if priority is None:
            priority = self.head_class(include_bulk)
            if priority is None:
                return None
        flow = self._first_flow(priority)
        throttled = self.budget.throttle_pause.throttled_receipt
        if throttled is None or self.lane is Lane.CLASSIC or flow.head().receipt is not throttled:
            return flow
        for other in sorted(self.classes, key=self._start_tag):
            if other is not priority and self.classes[other].active_children and (include_bulk or other is not _BULK):
                return self._first_flow(other)
        return flow

    def _first_flow(self, priority: Priority) -> BatchFlow:
        flow = self.classes[priority].first_child().first_child()
        assert isinstance(flow, BatchFlow)
        return flow

    def _start_tag(self, priority: Priority) -> float:
        return self.classes[priority].start_tag

    def set_state(self, state: QueueState, now: float, lane_waits: WaitTotals) -> None:
        """Change state; the time until now counts for the reason of the old state."""
        self.accrue_waits(now, lane_waits)
        self.state = state

    def accrue_waits(self, now: float, lane_waits: WaitTotals) -> None:
        """Bring `waits` up to now."""
        if now == self._accrued_at:
            return
        if self.state is _READY:
            self.waits.add_since(lane_waits, self._lane_baseline)
        elif self.state is _BLOCKED:
            self.waits.add(self.block_reason, now - self._accrued_at)
        self._lane_baseline = lane_waits.snapshot()
        self._accrued_at = now

    def copy(self, memo: CopyMemo) -> LaneQueue:
        """Copy this queue, its budget, and the flows that have waiters."""
        clone: LaneQueue | None = memo.get(self)
        if clone is None:
            clone = memo[self] = copy(self)
            clone.budget, clone.waits, clone.root = self.budget.copy(memo), copy(self.waits), self.root.copy(memo)
            clone.classes = {priority: node.copy(memo) for priority, node in self.classes.items()}
            clone._tenants = {key: node.copy(memo) for key, node in self._tenants.items()}
            clone.flows = {flow.copy(memo) for flow in self.flows}
            clone.lanes = tuple(lane_queue.copy(memo) for lane_queue in self.lanes)
        return clone


def open_lanes(budget: Budget) -> tuple[LaneQueue, ...]:
    """Open the queues of both lanes before a budget, by `Lane`."""
    lanes = tuple(LaneQueue(budget, lane) for lane in Lane)
    for lane_queue in lanes:
        lane_queue.lanes = lanes
    return lanes
