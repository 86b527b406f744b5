"""Where each lineup of one gate stands, and which batches are out of the running.

Rules:

* a lineup is ready, with its turn among the others of its lane, while nothing is known to hold it; held, out of the
  turns, until its budget may pay its head; idle when nobody in it is in the running;
* a batch that its own allowance holds back is parked: until its rate allows it, or until the allowance has room;
* time is put down to what it was spent in: for a ready lineup, to the reason that its lane noted at the last look.

Pure: moments are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf

from paceline.admission.budget import Budget
from paceline.admission.copy_memo import CopyMemo
from paceline.admission.lane_queue import BatchFlow, LaneQueue, QueueState
from paceline.admission.permit_scheduler import PermitScheduler
from paceline.model import WaitReason

_READY, _BLOCKED, _IDLE = QueueState.READY, QueueState.BLOCKED, QueueState.IDLE
_RATE, _CONCURRENCY = WaitReason.RATE, WaitReason.CONCURRENCY
_MIN_SWEEP_SIZE = 64


class RunQueue:
    """The lineups of one gate; `wake` is called when a batch that was parked may go."""

    __slots__ = ("_blocked", "_parked", "_request_dispatch", "_sequence", "_sweep_threshold", "accrued_at", "scheduler")

    def __init__(self, request_dispatch: Callable[[], None]) -> None:
        self.scheduler = PermitScheduler()
        """Who is ready."""
        self.accrued_at = 0.0
        """Up to when time was put down to its reason."""
        self._request_dispatch = request_dispatch
        self._blocked: list[tuple[float, int, LaneQueue]] = []
        self._sweep_threshold = _MIN_SWEEP_SIZE
        """So many held are swept for those that are so no more."""
        self._parked: list[tuple[float, int, BatchFlow]] = []
        self._sequence = count(1)

    def accrue_lane_waits(self, now: float) -> None:
        """Put the time since the last look down to each lane's reason."""
        if now > self.accrued_at:
            for lane_scheduler in self.scheduler.by_lane:
                if lane_scheduler.wait_reason is not None:
                    lane_scheduler.waits.add(lane_scheduler.wait_reason, now - self.accrued_at)
            self.accrued_at = now

    def accrue_waits(self, flow: BatchFlow, now: float) -> None:
        """Bring what a batch and its lineup waited for up to now."""
        if now > self.accrued_at:
            self.accrue_lane_waits(now)
        lane_queue = flow.lane_queue
        lane_queue.accrue_waits(now, self.scheduler.by_lane[lane_queue.lane].waits)
        if flow.parked_at is not None:
            flow.accrue_waits(now)

    def mark_ready(self, lane_queue: LaneQueue, now: float) -> None:
        """Nothing is known to hold this lineup: ready if somebody waits in it, else idle."""
        lane_scheduler = self.scheduler.by_lane[lane_queue.lane]
        if lane_queue.root.active_children:
            if lane_queue.state is not _READY:
                lane_queue.set_state(_READY, now, lane_scheduler.waits)
                lane_queue.block_sequence = 0
            lane_scheduler.add(lane_queue)
        elif lane_queue.state is not _IDLE:
            lane_queue.set_state(_IDLE, now, lane_scheduler.waits)
            lane_queue.block_sequence = 0
            lane_queue.rate_due_at = None
            lane_scheduler.remove(lane_queue)

    def block(self, lane_queue: LaneQueue, blocked_until: float, reason: WaitReason, now: float) -> None:
        """Its budget cannot pay its head, or is paused."""
        lane_scheduler = self.scheduler.by_lane[lane_queue.lane]
        lane_scheduler.remove(lane_queue)
        lane_queue.set_state(_BLOCKED, now, lane_scheduler.waits)
        lane_queue.blocked_until, lane_queue.block_reason = blocked_until, reason
        lane_queue.rate_due_at = blocked_until if reason is _RATE else None
        lane_queue.block_sequence = next(self._sequence)
        if blocked_until < inf:
            heappush(self._blocked, (blocked_until, lane_queue.block_sequence, lane_queue))
            if len(self._blocked) > self._sweep_threshold:
                self._blocked = [entry for entry in self._blocked if entry[1] == entry[2].block_sequence]
                heapify(self._blocked)
                self._sweep_threshold = 2 * len(self._blocked) + _MIN_SWEEP_SIZE

    def park(self, flow: BatchFlow, batch_due_at: float, now: float) -> None:
        """Take a batch that its own allowance holds back out of the running."""
        batch_pool, lane_queue = flow.batch_pool, flow.lane_queue
        assert batch_pool is not None
        lane_queue.accrue_waits(now, self.scheduler.by_lane[lane_queue.lane].waits)
        flow.park(now, batch_due_at, _RATE if batch_pool.has_capacity else _CONCURRENCY)
        if batch_pool.has_capacity and batch_due_at < inf:
            heappush(self._parked, (batch_due_at, next(self._sequence), flow))
        else:
            batch_pool.add_waiter((self, flow), partial(self._on_pool_capacity, flow))
        self.mark_ready(lane_queue, now)

    def remove_flow(self, flow: BatchFlow) -> None:
        """Nobody waits in this batch any more."""
        if flow.parked_at is not None:
            flow.parked_at = None
            assert flow.batch_pool is not None
            flow.batch_pool.remove_waiter((self, flow))

    def unblock_due(self, now: float) -> None:
        """Place all that were held or parked until now."""
        parked, blocked = self._parked, self._blocked
        while parked and parked[0][0] <= now:
            flow = heappop(parked)[2]
            if flow.parked_at is not None:
                flow.lane_queue.accrue_waits(now, self.scheduler.by_lane[flow.lane_queue.lane].waits)
                flow.unpark(now)
                self.mark_ready(flow.lane_queue, now)
        while blocked and blocked[0][0] <= now:
            _, sequence, lane_queue = heappop(blocked)
            if sequence == lane_queue.block_sequence:
                self.mark_ready(lane_queue, now)

    def next_unblock_at(self) -> float:
        """When somebody is held or parked until; `inf` where nobody is."""
        parked, blocked = self._parked, self._blocked
        while blocked and blocked[0][1] != blocked[0][2].block_sequence:
            heappop(blocked)
        unblock_at = blocked[0][0] if blocked else inf
        return parked[0][0] if parked and parked[0][0] < unblock_at else unblock_at

    def copy(self, memo: CopyMemo, budgets: Iterable[Budget], request_dispatch: Callable[[], None]) -> RunQueue:
        """A copy over the copies of the budgets; see `Gate.fork`."""
        clone = RunQueue(request_dispatch)
        lane_queues, flows = memo.lane_queues, memo.flows
        clone.scheduler, clone.accrued_at = self.scheduler.copy(memo), self.accrued_at
        clone._blocked = [(at, n, lane_queues[each]) for at, n, each in self._blocked if n == each.block_sequence]
        clone._parked = [(at, n, flows[each]) for at, n, each in self._parked if each in flows]
        heapify(clone._blocked)
        heapify(clone._parked)
        numbers = [number for _, number, _ in (*clone._blocked, *clone._parked)]
        clone._sequence = count(max(numbers, default=0) + 1)
        timed = {flow for _, _, flow in clone._parked}
        for budget in budgets:
            for flow in (*budget.lane_queues[0].flows, *budget.lane_queues[1].flows):
                if flow.parked_at is not None and flow not in timed:
                    assert flow.batch_pool is not None
                    if flow.batch_pool.has_capacity:  # it was shut: nobody can foretell for how long
                        heappush(clone._parked, (-inf, next(clone._sequence), flow))
                    else:
                        flow.batch_pool.add_waiter((clone, flow), partial(clone._on_pool_capacity, flow))
        return clone

    def _on_pool_capacity(self, flow: BatchFlow) -> None:
        flow.batch_due_at = inf
        heappush(self._parked, (-inf, next(self._sequence), flow))
        self._request_dispatch()
