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

from paceline.admission.allowance import Allowance
from paceline.admission.copies import Copies
from paceline.admission.queue import Flow, Share
from paceline.admission.waits import Waits
from paceline.model import ONE_REQUEST, Cost, Priority, Receipt, WaitReason
from paceline.rate.window import Hold, Window
from paceline.resilience.breaker import UNCOUNTED

if TYPE_CHECKING:
    from paceline.admission.budget import Budget

_ONE = tuple(ONE_REQUEST.items())
_NOTHING = 1e-6
"""Sums of fractions leave crumbs."""
_BULK = Priority.BULK
WEIGHTS = {Priority.INTERACTIVE: 100.0, Priority.NORMAL: 10.0, Priority.BULK: 1.0}


class Lane(IntEnum):
    """Who is bound by what was learned."""

    CLASSIC = 0
    ADAPTIVE = 1


class State(IntEnum):
    IDLE = 0
    READY = 1
    HELD = 2


_READY, _HELD = State.READY, State.HELD
_CLASSIC = Lane.CLASSIC


class BatchFlow(Flow):
    """A batch in one lineup: its own allowance, and how its waits differ from the lineup's."""

    __slots__ = ("backlog", "lineup", "own", "own_due", "parked_at", "parked_mark", "parked_reason", "priority",
                 "shift", "unparked_at")  # fmt: skip

    def __init__(self, parent: Share, lineup: Lineup, priority: Priority, own: Allowance | None) -> None:
        super().__init__(parent)
        self.lineup = lineup
        self.priority = priority
        self.own = own
        self.backlog: dict[str, float] = {}
        """What its waiters ask for in all, by unit."""
        self.own_due = -inf
        """When its own rate would have let its head go, for the look that unparked it."""
        self.unparked_at = -inf
        self.parked_at: float | None = None
        self.parked_reason = WaitReason.CONCURRENCY
        self.parked_mark = (0.0, 0.0, 0.0)
        self.shift = Waits()

    def waited(self) -> tuple[float, float, float]:
        """Rate, concurrency and pause so far, as one of its waiters sees them."""
        waits, shift = self.lineup.waits, self.shift
        return (
            waits.rate_s + shift.rate_s,
            waits.concurrency_s + shift.concurrency_s,
            waits.pause_s + shift.pause_s,
        )

    def join(self, waiter: Waiter) -> None:
        self.waiters[waiter] = None
        backlog, queued = self.backlog, self.lineup.budget.queued
        for unit, amount in waiter.amounts:
            backlog[unit] = backlog.get(unit, 0.0) + amount
            queued[unit] = queued.get(unit, 0.0) + amount

    def part(self, waiter: Waiter) -> None:
        del self.waiters[waiter]
        backlog, queued = self.backlog, self.lineup.budget.queued
        for unit, amount in waiter.amounts:
            for holder in (backlog, queued):
                left = holder.get(unit, 0.0) - amount
                if left > _NOTHING:
                    holder[unit] = left
                else:  # callers name units as they like: those of nobody who waits are forgotten
                    holder.pop(unit, None)

    def park(self, now: float, own_due: float, reason: WaitReason) -> None:
        """Its own allowance holds it back: out of the running, so that it holds nobody else."""
        self.leave()
        self.parked_at = now
        self.parked_reason = reason
        self.own_due = own_due
        self.parked_mark = self.lineup.waits.read()

    def fold(self, now: float) -> None:
        """While it is parked, what the lineup waited for is not what this batch waited for."""
        if self.parked_at is not None:
            self.shift.take_back(self.lineup.waits, self.parked_mark)
            self.shift.add(self.parked_reason, now - self.parked_at)
            self.parked_at = now
            self.parked_mark = self.lineup.waits.read()

    def unpark(self, now: float) -> None:
        """Back into the running."""
        self.fold(now)
        self.parked_at = None
        self.unparked_at = now
        self.own_due = min(self.own_due, now)
        self.enter()

    def fork_into(self, lineup: Lineup, copies: Copies) -> BatchFlow:
        """Its copy in the copy of its lineup, with the same place in the queue but nobody waiting there yet."""
        fork = copies.flows.get(self)
        if fork is None:
            assert self.parent is not None
            fork = copies.flows[self] = copies.shares[self] = copy(self)
            fork.parent, fork.lineup = copies.shares[self.parent], lineup
            fork.waiters = OrderedDict()
            fork.backlog, fork.shift = dict(self.backlog), copy(self.shift)
            fork.own = self.own and self.own.fork(copies)
        return fork


class Waiter:
    """One attempt that wants to go; once granted it is the grant."""

    __slots__ = ("among", "amounts", "arrived", "cost", "deadline", "flow", "future", "granted_at", "holds", "marks",
                 "offered_at", "own_hold", "receipt", "settled", "ticket", "written_at")  # fmt: skip

    def __init__(self, flow: BatchFlow, cost: Cost, receipt: Receipt, deadline: float = inf) -> None:
        self.flow = flow
        self.cost = cost
        self.amounts = _ONE if cost is ONE_REQUEST else tuple(cost.items())
        self.receipt = receipt
        self.deadline = deadline
        self.future: Future[None] | None = None
        """The shell's, while it waits."""
        self.offered_at = inf
        self.granted_at: float | None = None
        self.written_at: float | None = None
        self.settled = False
        self.ticket = UNCOUNTED
        """The breaker's."""
        self.among = 0
        """How many were in flight when it went, itself included."""
        self.holds: list[tuple[Window, Hold]] = []
        self.own_hold: Hold | None = None
        self.marks: Mapping[str, float] = {}
        """What its budget had written in all when this was written, itself included, by unit."""
        self.arrived = (0.0, 0.0, 0.0)

    def fork(self, flow: BatchFlow, copies: Copies) -> Waiter:
        """Its copy in the copy of its batch; with a receipt of its own and without a future."""
        fork = Waiter(flow, self.cost, Receipt(), self.deadline)
        fork.granted_at, fork.written_at, fork.marks = self.granted_at, self.written_at, self.marks
        fork.arrived, fork.offered_at = self.arrived, self.offered_at
        windows, holds = copies.windows, copies.holds
        fork.holds = [(windows[window], hold.fork(holds)) for window, hold in self.holds if window in windows]
        fork.own_hold = self.own_hold and self.own_hold.fork(holds)
        pause = flow.lineup.budget.pause
        if pause.throttled is self.receipt:
            pause.throttled = fork.receipt
        return fork


class Lineup:
    """Waiters of one lane before one budget, by class, tenant, batch and arrival."""

    __slots__ = ("_mark", "_since", "_tenants", "budget", "classes", "flows", "hold_number", "lane", "rate_due",
                 "ready_as", "reason", "root", "served_number", "spare_as", "state", "until", "waits")  # fmt: skip

    def __init__(self, budget: Budget, lane: Lane) -> None:
        self.budget = budget
        self.lane = lane
        self.root = Share(None)
        self.classes = {priority: Share(self.root, weight) for priority, weight in WEIGHTS.items()}
        self._tenants: dict[tuple[Priority, str], Share] = {}
        self.flows: set[BatchFlow] = set()
        """Those with somebody waiting, parked or not."""
        self.state = State.IDLE
        self.ready_as: Priority | None = None
        """The class of its head, as the gate's turns have it; None unless it is ready."""
        self.spare_as: Priority | None = None
        """Where that is bulk, the class of who goes when bulk may not; None where nobody else waits."""
        self.served_number = 0
        """The gate's turns': larger, the later it had one."""
        self.reason = WaitReason.RATE
        self.until = inf
        self.hold_number = 0
        self.rate_due: float | None = None
        """When the rate would have let the head go, where it was the rate that held it last."""
        self.waits = Waits()
        self._since = 0.0
        self._mark = (0.0, 0.0, 0.0)

    def open(self, priority: Priority, tenant: str, weight: float, own: Allowance | None) -> BatchFlow:
        """A place for one batch."""
        share = self._tenants.get((priority, tenant))
        if share is None:
            share = self._tenants[priority, tenant] = Share(self.classes[priority])
        share.weight = weight
        return BatchFlow(share, self, priority, own)

    def head_class(self, bulk: bool) -> Priority | None:
        """The class whose turn it is; None where nobody (but bulk, unless `bulk`) waits in the running."""
        best: Priority | None = None
        start = inf
        alone = self.root.live == 1
        for priority, share in self.classes.items():
            if share.live and (share.start < start or best is None) and (bulk or priority is not _BULK):
                if alone:
                    return priority
                best, start = priority, share.start
        return best

    def head_flow(self, bulk: bool) -> BatchFlow | None:
        """The batch whose turn it is; for a probe, another than the throttled item's where there is one."""
        priority = self.ready_as if bulk else None
        if priority is None:
            priority = self.head_class(bulk)
            if priority is None:
                return None
        flow = self._first(priority)
        throttled = self.budget.pause.throttled
        if throttled is None or self.lane is _CLASSIC or flow.head().receipt is not throttled:
            return flow
        for other in sorted(self.classes, key=self._start):
            if other is not priority and self.classes[other].live and (bulk or other is not _BULK):
                return self._first(other)
        return flow

    def _first(self, priority: Priority) -> BatchFlow:
        flow = self.classes[priority].first().first()
        assert isinstance(flow, BatchFlow)
        return flow

    def _start(self, priority: Priority) -> float:
        return self.classes[priority].start

    def become(self, state: State, now: float, gate_waits: Waits) -> None:
        """Change state; the time until now goes to the old state's reason."""
        self.fold(now, gate_waits)
        self.state = state

    def fold(self, now: float, gate_waits: Waits) -> None:
        """Bring `waits` up to now."""
        if now == self._since:
            return
        if self.state is _READY:
            self.waits.add_since(gate_waits, self._mark)
        elif self.state is _HELD:
            self.waits.add(self.reason, now - self._since)
        self._mark = gate_waits.read()
        self._since = now

    def fork(self, budget: Budget, copies: Copies) -> Lineup:
        """Its copy before the copy of its budget, with the batches that have somebody waiting."""
        fork = copies.lineups[self] = copy(self)
        fork.budget, fork.waits = budget, copy(self.waits)
        fork.root = self.root.fork(None, copies)
        fork.classes = {priority: share.fork(fork.root, copies) for priority, share in self.classes.items()}
        fork._tenants = {key: share.fork(fork.classes[key[0]], copies) for key, share in self._tenants.items()}
        fork.flows = {flow.fork_into(fork, copies) for flow in self.flows}
        for share in (self.root, *self.classes.values(), *self._tenants.values()):
            share.adopt(copies)
        return fork
