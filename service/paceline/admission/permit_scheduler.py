"""Whose turn a free permit is, among the lineups that are ready: by class, and in turn within a class.

`bulk` leaves one permit in ten to the others, but as many it may always have itself, so that it is never starved. Both
lanes share the permits: the class that is furthest behind goes, in whichever lane.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import copy
from math import inf

from paceline.admission.copy_memo import CopyMemo
from paceline.admission.lane_queue import PRIORITY_WEIGHTS, LaneQueue
from paceline.admission.wait_totals import WaitTotals
from paceline.model import Priority, WaitReason

_BULK = Priority.BULK


class LaneScheduler:
    """Those of one lane."""

    __slots__ = ("_fallback", "_ready", "_served_sequence", "_start_tags", "ready_count", "wait_reason", "waits")

    def __init__(self) -> None:
        self._ready: dict[Priority, OrderedDict[LaneQueue, None]] = {
            priority: OrderedDict() for priority in PRIORITY_WEIGHTS
        }
        self._fallback: dict[Priority, OrderedDict[LaneQueue, None]] = {
            priority: OrderedDict() for priority in PRIORITY_WEIGHTS
        }
        """Lineups whose head is bulk, by the class of who goes instead when bulk may not: in turn with the others."""
        self._served_sequence = 0
        self._start_tags = dict.fromkeys(PRIORITY_WEIGHTS, 0.0)
        self.ready_count = 0
        self.wait_reason: WaitReason | None = None
        """Why they were not served at the last look; None where none was ready."""
        self.waits = WaitTotals()
        """What a ready lineup of this lane was held back by: permits, a pause, or a look that was put off."""

    def add(self, lane_queue: LaneQueue) -> None:
        """It is ready, or its head may have changed."""
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
        """The lineup whose turn it is, with its start tag."""
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
        """A permit went to this class: its tag moves on, and the next of its lineups is first. Its start tag."""
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
        clone, lane_queues = LaneScheduler(), memo.lane_queues
        for sources, targets in ((self._ready, clone._ready), (self._fallback, clone._fallback)):
            for priority, entries in sources.items():
                targets[priority] = OrderedDict.fromkeys(lane_queues[lane_queue] for lane_queue in entries)
        clone._start_tags, clone._served_sequence, clone.ready_count = (
            dict(self._start_tags),
            self._served_sequence,
            self.ready_count,
        )
        clone.wait_reason, clone.waits = self.wait_reason, copy(self.waits)
        return clone


class PermitScheduler:
    """The turns of both lanes."""

    __slots__ = ("adaptive", "by_lane", "classic", "virtual_time")

    def __init__(self) -> None:
        self.classic, self.adaptive = self.by_lane = (LaneScheduler(), LaneScheduler())
        """The same two by `Lane`: `of[lane]`."""
        self.virtual_time = 0.0
        """The start tag of who was served last."""

    @property
    def has_ready(self) -> bool:
        """Somebody is ready."""
        return self.classic.ready_count > 0 or self.adaptive.ready_count > 0

    def select(
        self, in_flight: float, bulk_in_flight: float, limit: float, adaptive_limit: float
    ) -> tuple[LaneQueue, bool] | None:
        """The lineup whose turn it is, and whether bulk may go; None when with so many in flight nobody may."""
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
        """A copy for the copies of the lineups."""
        clone = PermitScheduler()
        clone.classic, clone.adaptive = clone.by_lane = (self.classic.copy(memo), self.adaptive.copy(memo))
        clone.virtual_time = self.virtual_time
        return clone


def _may_grant_bulk(in_flight: float, bulk_in_flight: float, limit: float) -> bool:
    """Bulk leaves one permit in ten free for the others, at least one where there is more than one.

    As many it may itself have, however many the others want: with none it would never go while they take all.
    """
    reserved = 0.0 if limit <= 1 or limit == inf else max(1, limit // 10)
    return in_flight < limit - reserved or bulk_in_flight < reserved


def _least_recently_served(ready: OrderedDict[LaneQueue, None], fallback: OrderedDict[LaneQueue, None]) -> LaneQueue:
    """Of the first of each, the one that was served before the other."""
    other = next(iter(fallback))
    if not ready:
        return other
    one = next(iter(ready))
    return one if one.served_sequence <= other.served_sequence else other
