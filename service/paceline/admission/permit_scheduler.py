"""Which ready queue gets the next free permit: by priority class, and in turn within a class.

`bulk` leaves one permit in ten to the other classes, and may always use that number itself, so that it never starves.
Both lanes share the permits: the class that is furthest behind is served, in either lane.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import copy
from math import inf

from paceline.admission.lane import PRIORITY_WEIGHTS
from paceline.admission.lane_queue import LaneQueue
from paceline.admission.wait_totals import WaitTotals
from paceline.model import Priority, WaitReason
from paceline.rate.window import CopyMemo

_BULK = Priority.BULK


class LaneScheduler:
    """The ready queues of one lane."""

    __slots__ = ("_fallback", "_ready", "_served_sequence", "_start_tags", "ready_count", "wait_reason", "waits")

    def __init__(self) -> None:
        self._ready: dict[Priority, OrderedDict[LaneQueue, None]] = {
            priority: OrderedDict() for priority in PRIORITY_WEIGHTS
        }
        self._fallback: dict[Priority, OrderedDict[LaneQueue, None]] = {
            priority: OrderedDict() for priority in PRIORITY_WEIGHTS
        }
        """Queues whose head is bulk, by the class that goes instead when bulk may not: in turn with the others."""
        self._served_sequence = 0
        self._start_tags = dict.fromkeys(PRIORITY_WEIGHTS, 0.0)
        self.ready_count = 0
        self.wait_reason: WaitReason | None = None
        """Why its ready queues were not served at the last dispatch; None where none was ready."""
        self.waits = WaitTotals()
        """What blocked the ready queues of this lane: permits, a pause, or a dispatch that was deferred."""

    def add(self, lane_queue: LaneQueue) -> None:
        """Add a queue that is ready, or update one whose head may have changed."""
        head = lane_queue.head_class(True)
        assert head is not None
        before = lane_queue.ready_class
        if before is not head:
            if before is None:
                self.ready_count += 1
            else:
                del self._ready[before][lane_queue]
            self._ready[head][lane_queue] = None
            lane_queue.ready_class = head
        fallback = lane_queue.head_class(False) if head is _BULK and lane_queue.root.active_children > 1 else None
        if fallback is not lane_queue.fallback_class:
            self._set_fallback(lane_queue, fallback)

    def remove(self, lane_queue: LaneQueue) -> None:
        if lane_queue.ready_class is not None:
            del self._ready[lane_queue.ready_class][lane_queue]
            lane_queue.ready_class = None
            self.ready_count -= 1
            if lane_queue.fallback_class is not None:
                self._set_fallback(lane_queue, None)

    def select(self, include_bulk: bool, virtual_time: float) -> tuple[float, LaneQueue] | None:
        """Return the queue to serve next, with its start tag."""
        best: LaneQueue | None = None
        start = inf
        for priority, ready in self._ready.items():
            if not include_bulk and priority is _BULK:
                continue
            fallback = None if include_bulk else self._fallback[priority]
            if ready or fallback:
                tag = self._start_tags[priority]
                if tag < virtual_time:
                    tag = virtual_time
                if tag < start:
                    best, start = _least_recently_served(ready, fallback) if fallback else next(iter(ready)), tag
        return None if best is None else (start, best)

    def charge(self, lane_queue: LaneQueue, priority: Priority, cost: float, virtual_time: float) -> float:
        """Advance the tag of a class that got a permit, and put this queue last in it. Returns the start tag."""
        start = self._start_tags[priority]
        if start < virtual_time:
            start = virtual_time
        self._start_tags[priority] = start + cost / PRIORITY_WEIGHTS[priority]
        if self.ready_count > 1 and lane_queue.ready_class is not None:
            self._served_sequence += 1
            lane_queue.served_sequence = self._served_sequence
            self._ready[lane_queue.ready_class].move_to_end(lane_queue)
            if lane_queue.fallback_class is not None:
                self._fallback[lane_queue.fallback_class].move_to_end(lane_queue)
        return start

    def _set_fallback(self, lane_queue: LaneQueue, fallback: Priority | None) -> None:
        if lane_queue.fallback_class is not None:
            del self._fallback[lane_queue.fallback_class][lane_queue]
        if fallback is not None:
            self._fallback[fallback][lane_queue] = None
        lane_queue.fallback_class = fallback

    def copy(self, memo: CopyMemo) -> LaneScheduler:
        clone = LaneScheduler()
        for sources, targets in ((self._ready, clone._ready), (self._fallback, clone._fallback)):
            for priority, entries in sources.items():
                targets[priority] = OrderedDict.fromkeys(lane_queue.copy(memo) for lane_queue in entries)
        clone._start_tags = dict(self._start_tags)
        clone._served_sequence, clone.ready_count = self._served_sequence, self.ready_count
        clone.wait_reason, clone.waits = self.wait_reason, copy(self.waits)
        return clone


class PermitScheduler:
    """The schedulers of both lanes, and the permits they share."""

    __slots__ = ("adaptive", "by_lane", "classic", "virtual_time")

    def __init__(self) -> None:
        self.classic, self.adaptive = self.by_lane = (LaneScheduler(), LaneScheduler())
        """The same two, by `Lane`."""
        self.virtual_time = 0.0
        """The start tag of the class that was served last."""

    @property
    def has_ready(self) -> bool:
        """Whether any queue is ready."""
        return self.classic.ready_count > 0 or self.adaptive.ready_count > 0

    def select(
        self, in_flight: float, bulk_in_flight: float, limit: float, adaptive_limit: float
    ) -> tuple[LaneQueue, bool] | None:
        """Return the queue to serve next and whether bulk may go; None when no permit is free for any."""
        classic, adaptive = self.by_lane
        found, include_bulk = None, False
        if classic.ready_count and in_flight < limit:
            include_bulk = _may_grant_bulk(in_flight, bulk_in_flight, limit)
            found = classic.select(include_bulk, self.virtual_time)
        if adaptive.ready_count and in_flight < adaptive_limit:
            adaptive_include_bulk = _may_grant_bulk(in_flight, bulk_in_flight, adaptive_limit)
            other = adaptive.select(adaptive_include_bulk, self.virtual_time)
            if other is not None and (found is None or other[0] <= found[0]):
                found, include_bulk = other, adaptive_include_bulk
        return None if found is None else (found[1], include_bulk)

    def copy(self, memo: CopyMemo) -> PermitScheduler:
        """Copy both schedulers, for the copies of their queues."""
        clone = PermitScheduler()
        clone.classic, clone.adaptive = clone.by_lane = (self.classic.copy(memo), self.adaptive.copy(memo))
        clone.virtual_time = self.virtual_time
        return clone


def _may_grant_bulk(in_flight: float, bulk_in_flight: float, limit: float) -> bool:
    """Whether bulk leaves one permit in ten free for the others, at least one where there is more than one.

    Bulk may use that number itself, whatever the others want: without it, it would starve while they take all.
    """
    reserved = 0.0 if limit <= 1 or limit == inf else max(1, limit // 10)
    return in_flight < limit - reserved or bulk_in_flight < reserved


def _least_recently_served(ready: OrderedDict[LaneQueue, None], fallback: OrderedDict[LaneQueue, None]) -> LaneQueue:
    """Return, of the first of each, the one that was served earlier."""
    other = next(iter(fallback))
    if not ready:
        return other
    one = next(iter(ready))
    return one if one.served_sequence <= other.served_sequence else other
