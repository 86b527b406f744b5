"""The lane queues of one gate by state, as the run queue of an operating system: ready, blocked until, or idle.

* A queue is ready, and takes part in its lane's scheduling, while nothing is known to block it; blocked until its
  budget may pay for its head; idle while it has no active flow.
* A batch that its own permit pool blocks is parked: until its rate allows it, or until the pool has capacity.
* Time counts for what it was spent in: for a ready queue, for the reason that its lane had at the last dispatch.

Pure: moments are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf

from paceline.admission.lane_queue import BatchFlow, LaneQueue, QueueState
from paceline.admission.permit_scheduler import PermitScheduler
from paceline.model import WaitReason
from paceline.rate.window import CopyMemo

_READY, _BLOCKED, _IDLE = QueueState.READY, QueueState.BLOCKED, QueueState.IDLE
_RATE, _CONCURRENCY = WaitReason.RATE, WaitReason.CONCURRENCY
_MIN_SWEEP_SIZE = 64


class RunQueue:
    """The queues of one gate; `request_dispatch` is called when a parked batch may go."""

    __slots__ = ("_blocked", "_parked", "_request_dispatch", "_sequence", "_sweep_threshold", "accrued_at", "scheduler")

    def __init__(self, request_dispatch: Callable[[], None]) -> None:
        self.scheduler = PermitScheduler()
        """Holds the ready queues."""
        self.accrued_at = 0.0
        """The moment up to which time is counted for its reason."""
        self._request_dispatch = request_dispatch
        self._blocked: list[tuple[float, int, LaneQueue]] = []
        self._sweep_threshold = _MIN_SWEEP_SIZE
        """At this size, `_blocked` is swept of entries that are no longer valid."""
        self._parked: list[tuple[float, int, BatchFlow]] = []
        self._sequence = count(1)

    def accrue_lane_waits(self, now: float) -> None:
        """Count the time since the last call for each lane's reason."""
        if now > self.accrued_at:
            for lane_scheduler in self.scheduler.by_lane:
                if lane_scheduler.wait_reason is not None:
                    lane_scheduler.waits.add(lane_scheduler.wait_reason, now - self.accrued_at)
            self.accrued_at = now

    def accrue_waits(self, flow: BatchFlow, now: float) -> None:
        """Bring the waits of a batch and its queue up to now."""
        if now > self.accrued_at:
            self.accrue_lane_waits(now)
        lane_queue = flow.lane_queue
        lane_queue.accrue_waits(now, self.scheduler.by_lane[lane_queue.lane].waits)
        if flow.parked_at is not None:
            flow.accrue_waits(now)

    def mark_ready_or_idle(self, lane_queue: LaneQueue, now: float) -> None:
        """Take a queue that nothing is known to block as ready if it has an active flow, else as idle."""
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
        """Block a queue whose budget is paused or cannot pay for its head."""
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
        """Park a batch that its own permit pool blocks."""
        batch_pool, lane_queue = flow.batch_pool, flow.lane_queue
        assert batch_pool is not None
        lane_queue.accrue_waits(now, self.scheduler.by_lane[lane_queue.lane].waits)
        flow.park(now, batch_due_at, _RATE if batch_pool.has_capacity else _CONCURRENCY)
        if batch_pool.has_capacity and batch_due_at < inf:
            heappush(self._parked, (batch_due_at, next(self._sequence), flow))
        else:
            batch_pool.add_waiter((self, flow), partial(self._on_pool_capacity, flow))
        self.mark_ready_or_idle(lane_queue, now)

    def remove_flow(self, flow: BatchFlow) -> None:
        """Forget a batch that has no waiters any more."""
        if flow.parked_at is not None:
            flow.parked_at = None
            assert flow.batch_pool is not None
            flow.batch_pool.remove_waiter((self, flow))

    def unblock_due(self, now: float) -> None:
        """Unblock the queues and unpark the batches that are due."""
        parked, blocked = self._parked, self._blocked
        while parked and parked[0][0] <= now:
            flow = heappop(parked)[2]
            if flow.parked_at is not None:
                flow.lane_queue.accrue_waits(now, self.scheduler.by_lane[flow.lane].waits)
                flow.unpark(now)
                self.mark_ready_or_idle(flow.lane_queue, now)
        while blocked and blocked[0][0] <= now:
            _, sequence, lane_queue = heappop(blocked)
            if sequence == lane_queue.block_sequence:
                self.mark_ready_or_idle(lane_queue, now)

    def next_unblock_at(self) -> float:
        """Return the earliest moment that a queue is blocked or a batch parked until; `inf` without any."""
        parked, blocked = self._parked, self._blocked
        while blocked and blocked[0][1] != blocked[0][2].block_sequence:
            heappop(blocked)
        unblock_at = blocked[0][0] if blocked else inf
        return parked[0][0] if parked and parked[0][0] < unblock_at else unblock_at

    def copy(self, memo: CopyMemo, lane_queues: Iterable[LaneQueue], request_dispatch: Callable[[], None]) -> RunQueue:
        """Copy this run queue; `lane_queues` are the copies of its queues."""
        clone = RunQueue(request_dispatch)
        clone.scheduler, clone.accrued_at = self.scheduler.copy(memo), self.accrued_at
        clone._blocked = [
            (at, number, each.copy(memo)) for at, number, each in self._blocked if number == each.block_sequence
        ]
        clone._parked = [(at, number, memo[flow]) for at, number, flow in self._parked if flow in memo]
        heapify(clone._blocked)
        heapify(clone._parked)
        numbers = [number for _, number, _ in (*clone._blocked, *clone._parked)]
        clone._sequence = count(max(numbers, default=0) + 1)
        timed = {flow for _, _, flow in clone._parked}
        for lane_queue in lane_queues:
            for flow in lane_queue.flows:
                if flow.parked_at is not None and flow not in timed:
                    assert flow.batch_pool is not None
                    if flow.batch_pool.has_capacity:  # the original is paused, for an unknown time
                        heappush(clone._parked, (-inf, next(clone._sequence), flow))
                    else:
                        flow.batch_pool.add_waiter((clone, flow), partial(clone._on_pool_capacity, flow))
        return clone

    def _on_pool_capacity(self, flow: BatchFlow) -> None:
        flow.batch_due_at = inf
        heappush(self._parked, (-inf, next(self._sequence), flow))
        self._request_dispatch()
