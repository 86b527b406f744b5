"""Whose turn a free permit is, among the lineups that are ready: by class, and in turn within a class.

`bulk` leaves one permit in ten to the others. Both lanes share the permits: the class that is furthest behind goes, in
whichever lane.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import copy
from math import inf

from paceline.admission.copies import Copies
from paceline.admission.lineup import WEIGHTS, Lineup
from paceline.admission.waits import Waits
from paceline.model import Priority, WaitReason

_BULK = Priority.BULK


class LaneTurns:
    """Those of one lane."""

    __slots__ = ("_ready", "_spare", "_tags", "count", "reason", "waits")

    def __init__(self) -> None:
        self._ready: dict[Priority, OrderedDict[Lineup, None]] = {priority: OrderedDict() for priority in WEIGHTS}
        self._spare: OrderedDict[Lineup, None] = OrderedDict()
        """Lineups whose head is bulk but where others wait too: asked only when bulk may not go."""
        self._tags = dict.fromkeys(WEIGHTS, 0.0)
        self.count = 0
        self.reason: WaitReason | None = None
        """Why they were not served at the last look; None where none was ready."""
        self.waits = Waits()
        """What a ready lineup of this lane was held back by: permits, or the operator's pause."""

    def add(self, lineup: Lineup) -> None:
        """It is ready, or its head may have changed."""
        head = lineup.head_class(True)
        assert head is not None
        before = lineup.ready_as
        if before is not head:
            if before is None:
                self.count += 1
            else:
                del self._ready[before][lineup]
            self._ready[head][lineup] = None
            lineup.ready_as = head
        if head is _BULK and lineup.root.live > 1:
            self._spare[lineup] = None
        elif self._spare:
            self._spare.pop(lineup, None)

    def remove(self, lineup: Lineup) -> None:
        if lineup.ready_as is not None:
            del self._ready[lineup.ready_as][lineup]
            lineup.ready_as = None
            self.count -= 1
            if self._spare:
                self._spare.pop(lineup, None)

    def next(self, bulk: bool, virtual: float) -> tuple[float, Lineup] | None:
        """The lineup whose turn it is, with its start tag."""
        best: OrderedDict[Lineup, None] | None = None
        start = inf
        for priority, lineups in self._ready.items():
            if lineups and (bulk or priority is not _BULK):
                tag = self._tags[priority]
                if tag < virtual:
                    tag = virtual
                if tag < start:
                    best, start = lineups, tag
        if best is not None:
            return start, next(iter(best))
        return (virtual, next(iter(self._spare))) if self._spare and not bulk else None

    def served(self, lineup: Lineup, priority: Priority, cost: float, virtual: float) -> float:
        """A permit went to this class: its tag moves on, and the next of its lineups is first. Its start tag."""
        start = self._tags[priority]
        if start < virtual:
            start = virtual
        self._tags[priority] = start + cost / WEIGHTS[priority]
        if self.count > 1 and lineup.ready_as is not None:
            self._ready[lineup.ready_as].move_to_end(lineup)
        return start

    def fork(self, copies: Copies) -> LaneTurns:
        fork, lineups = LaneTurns(), copies.lineups
        for priority, ready in self._ready.items():
            fork._ready[priority] = OrderedDict.fromkeys(lineups[lineup] for lineup in ready)
        fork._spare = OrderedDict.fromkeys(lineups[lineup] for lineup in self._spare)
        fork._tags, fork.count = dict(self._tags), self.count
        fork.reason, fork.waits = self.reason, copy(self.waits)
        return fork


class Turns:
    """The turns of both lanes."""

    __slots__ = ("adaptive", "classic", "of", "virtual")

    def __init__(self) -> None:
        self.classic, self.adaptive = self.of = (LaneTurns(), LaneTurns())
        """The same two by `Lane`: `of[lane]`."""
        self.virtual = 0.0
        """The start tag of who was served last."""

    @property
    def any(self) -> bool:
        """Somebody is ready."""
        return self.classic.count > 0 or self.adaptive.count > 0

    def next(self, in_flight: float, limit: float, adaptive_limit: float) -> tuple[Lineup, bool] | None:
        """The lineup whose turn it is, and whether bulk may go; None when with so many in flight nobody may."""
        classic, adaptive = self.of
        found, bulk = None, False
        if classic.count and in_flight < limit:
            bulk = in_flight < _bulk_limit(limit)
            found = classic.next(bulk, self.virtual)
        if adaptive.count and in_flight < adaptive_limit:
            bulk_too = in_flight < _bulk_limit(adaptive_limit)
            other = adaptive.next(bulk_too, self.virtual)
            if other is not None and (found is None or other[0] <= found[0]):
                found, bulk = other, bulk_too
        return None if found is None else (found[1], bulk)

    def fork(self, copies: Copies) -> Turns:
        """A copy for the copies of the lineups."""
        fork = Turns()
        fork.classic, fork.adaptive = fork.of = (self.classic.fork(copies), self.adaptive.fork(copies))
        fork.virtual = self.virtual
        return fork


def _bulk_limit(limit: float) -> float:
    """Bulk leaves one permit in ten to the others, at least one where there is more than one."""
    return limit if limit <= 1 or limit == inf else limit - max(1, limit // 10)
