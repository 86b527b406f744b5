"""One lane's queue before one budget: who is its head, and what held it back so far.

A lineup is idle (nobody waits), ready (its head may go as soon as the gate has a permit) or held (its budget cannot pay
the head, or is paused, until a moment). Time is put down to the reason of the state it passed in.
"""

from __future__ import annotations

from asyncio import Future
from collections import OrderedDict
from collections.abc import Mapping
from copy import copy
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING

from paceline.admission.copy_memo import CopyMemo
from paceline.admission.fair_queue import FairNode, Flow
from paceline.admission.permit_pool import PermitPool
from paceline.admission.wait_totals import WaitTotals
from paceline.model import ONE_REQUEST, Cost, Priority, Receipt, WaitReason
from paceline.rate.window import RateWindow, TokenHold
from paceline.resilience.breaker import UNCOUNTED_TICKET

if TYPE_CHECKING:
    from paceline.admission.budget import Budget

_ONE_REQUEST_AMOUNTS = tuple(ONE_REQUEST.items())
_ROUNDING_TOLERANCE = 1e-6
"""Sums of fractions leave crumbs."""
_BULK = Priority.BULK
PRIORITY_WEIGHTS = {Priority.INTERACTIVE: 100.0, Priority.NORMAL: 10.0, Priority.BULK: 1.0}


class Lane(IntEnum):
    """Who is bound by what was learned."""

    CLASSIC = 0
    ADAPTIVE = 1


class QueueState(IntEnum):
    IDLE = 0
    READY = 1
    BLOCKED = 2


_READY, _BLOCKED = QueueState.READY, QueueState.BLOCKED
_CLASSIC = Lane.CLASSIC


class BatchFlow(Flow):
    """A batch in one lineup: its own allowance, and how its waits differ from the lineup's."""

    __slots__ = (
        "backlog",
        "batch_due_at",
        "batch_pool",
        "lane_queue",
        "parked_at",
        "parked_baseline",
        "parked_reason",
        "priority",
        "unparked_at",
        "wait_offset",
    )  # fmt: skip

    def __init__(
        self, parent: FairNode, lane_queue: LaneQueue, priority: Priority, batch_pool: PermitPool | None
    ) -> None:
        super().__init__(parent)
        self.lane_queue = lane_queue
        self.priority = priority
        self.batch_pool = batch_pool
        self.backlog: dict[str, float] = {}
        """What its waiters ask for in all, by unit."""
        self.batch_due_at = -inf
        """When its own rate would have let its head go, for the look that unparked it."""
        self.unparked_at = -inf
        self.parked_at: float | None = None
        self.parked_reason = WaitReason.CONCURRENCY
        self.parked_baseline = (0.0, 0.0, 0.0)
        self.wait_offset = WaitTotals()

    def read_waits(self) -> tuple[float, float, float]:
        """Rate, concurrency and pause so far, as one of its waiters sees them."""
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
                else:  # callers name units as they like: those of nobody who waits are forgotten
                    holder.pop(unit, None)

    def park(self, now: float, batch_due_at: float, reason: WaitReason) -> None:
        """Its own allowance holds it back: out of the running, so that it holds nobody else."""
        self.deactivate()
        self.parked_at = now
        self.parked_reason = reason
        self.batch_due_at = batch_due_at
        self.parked_baseline = self.lane_queue.waits.snapshot()

    def accrue_waits(self, now: float) -> None:
        """While it is parked, what the lineup waited for is not what this batch waited for."""
        if self.parked_at is not None:
            self.wait_offset.subtract_since(self.lane_queue.waits, self.parked_baseline)
            self.wait_offset.add(self.parked_reason, now - self.parked_at)
            self.parked_at = now
            self.parked_baseline = self.lane_queue.waits.snapshot()

    def unpark(self, now: float) -> None:
        """Back into the running."""
        self.accrue_waits(now)
        self.parked_at = None
        self.unparked_at = now
        self.batch_due_at = min(self.batch_due_at, now)
        self.activate()

    def copy_into(self, lane_queue: LaneQueue, memo: CopyMemo) -> BatchFlow:
        """Its copy in the copy of its lineup, with the same place in the queue but nobody waiting there yet."""
        clone = memo.flows.get(self)
        if clone is None:
            assert self.parent is not None
            clone = memo.flows[self] = memo.nodes[self] = copy(self)
            clone.parent, clone.lane_queue = memo.nodes[self.parent], lane_queue
            clone.waiters = OrderedDict()
            clone.backlog, clone.wait_offset = dict(self.backlog), copy(self.wait_offset)
            clone.batch_pool = self.batch_pool and self.batch_pool.copy(memo)
        return clone


class Waiter:
    """One attempt that wants to go; once granted it is the grant."""

    __slots__ = (
        "amounts",
        "arrival_waits",
        "batch_hold",
        "breaker_ticket",
        "cost",
        "deadline",
        "flow",
        "future",
        "granted_at",
        "holds",
        "in_flight_at_grant",
        "offered_at",
        "receipt",
        "settled",
        "written_at",
        "written_totals",
    )  # fmt: skip

    def __init__(self, flow: BatchFlow, cost: Cost, receipt: Receipt, deadline: float = inf) -> None:
        self.flow = flow
        self.cost = cost
        self.amounts = _ONE_REQUEST_AMOUNTS if cost is ONE_REQUEST else tuple(cost.items())
        self.receipt = receipt
        self.deadline = deadline
        self.future: Future[None] | None = None
        """The shell's, while it waits."""
        self.offered_at = inf
        self.granted_at: float | None = None
        self.written_at: float | None = None
        self.settled = False
        self.breaker_ticket = UNCOUNTED_TICKET
        """The breaker's."""
        self.in_flight_at_grant = 0
        """How many were in flight when it went, itself included."""
        self.holds: list[tuple[RateWindow, TokenHold]] = []
        self.batch_hold: TokenHold | None = None
        self.written_totals: Mapping[str, float] = {}
        """What its budget had written in all when this was written, itself included, by unit."""
        self.arrival_waits = (0.0, 0.0, 0.0)

    def copy(self, flow: BatchFlow, memo: CopyMemo) -> Waiter:
        """Its copy in the copy of its batch; with a receipt of its own and without a future."""
        clone = Waiter(flow, self.cost, Receipt(), self.deadline)
        clone.granted_at, clone.written_at, clone.written_totals = self.granted_at, self.written_at, self.written_totals
        clone.arrival_waits, clone.offered_at = self.arrival_waits, self.offered_at
        windows, holds = memo.windows, memo.holds
        clone.holds = [(windows[window], hold.copy(holds)) for window, hold in self.holds if window in windows]
        clone.batch_hold = self.batch_hold and self.batch_hold.copy(holds)
        pause = flow.lane_queue.budget.throttle_pause
        if pause.throttled_receipt is self.receipt:
            pause.throttled_receipt = clone.receipt
        return clone


class LaneQueue:
    """Waiters of one lane before one budget, by class, tenant, batch and arrival."""

    __slots__ = (
        "_accrued_at",
        "_lane_baseline",
        "_tenants",
        "block_reason",
        "block_sequence",
        "blocked_until",
        "budget",
        "classes",
        "fallback_class",
        "flows",
        "lane",
        "rate_due_at",
        "ready_class",
        "root",
        "served_sequence",
        "state",
        "waits",
    )  # fmt: skip

    def __init__(self, budget: Budget, lane: Lane) -> None:
        self.budget = budget
        self.lane = lane
        self.root = FairNode(None)
        self.classes = {priority: FairNode(self.root, weight) for priority, weight in PRIORITY_WEIGHTS.items()}
        self._tenants: dict[tuple[Priority, str], FairNode] = {}
        self.flows: set[BatchFlow] = set()
        """Those with somebody waiting, parked or not."""
        self.state = QueueState.IDLE
        self.ready_class: Priority | None = None
        """The class of its head, as the gate's turns have it; None unless it is ready."""
        self.fallback_class: Priority | None = None
        """Where that is bulk, the class of who goes when bulk may not; None where nobody else waits."""
        self.served_sequence = 0
        """The gate's turns': larger, the later it had one."""
        self.block_reason = WaitReason.RATE
        self.blocked_until = inf
        self.block_sequence = 0
        self.rate_due_at: float | None = None
        """When the rate would have let the head go, where it was the rate that held it last."""
        self.waits = WaitTotals()
        self._accrued_at = 0.0
        self._lane_baseline = (0.0, 0.0, 0.0)

    def open_flow(self, priority: Priority, tenant: str, weight: float, batch_pool: PermitPool | None) -> BatchFlow:
        """A place for one batch."""
        node = self._tenants.get((priority, tenant))
        if node is None:
            node = self._tenants[priority, tenant] = FairNode(self.classes[priority])
        node.weight = weight
        return BatchFlow(node, self, priority, batch_pool)

    def head_class(self, include_bulk: bool) -> Priority | None:
        """The class whose turn it is; None where nobody (but bulk, unless `bulk`) waits in the running."""
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
        """The batch whose turn it is; for a probe, another than the throttled item's where there is one."""
        priority = self.ready_class if include_bulk else None
        if priority is None:
            priority = self.head_class(include_bulk)
            if priority is None:
                return None
        flow = self._first_flow(priority)
        throttled = self.budget.throttle_pause.throttled_receipt
        if throttled is None or self.lane is _CLASSIC or flow.head().receipt is not throttled:
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
        """Change state; the time until now goes to the old state's reason."""
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

    def copy(self, budget: Budget, memo: CopyMemo) -> LaneQueue:
        """Its copy before the copy of its budget, with the batches that have somebody waiting."""
        clone = memo.lane_queues[self] = copy(self)
        clone.budget, clone.waits = budget, copy(self.waits)
        clone.root = self.root.copy(None, memo)
        clone.classes = {priority: share.copy(clone.root, memo) for priority, share in self.classes.items()}
        clone._tenants = {key: share.copy(clone.classes[key[0]], memo) for key, share in self._tenants.items()}
        clone.flows = {flow.copy_into(clone, memo) for flow in self.flows}
        for share in (self.root, *self.classes.values(), *self._tenants.values()):
            share.copy_children(memo)
        return clone
