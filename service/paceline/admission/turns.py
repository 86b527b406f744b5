"""Whose turn a free permit is, among the lineups that are ready: by class, and in turn within a class.

`bulk` leaves one permit in ten to the others, but as many it may always have itself, so that it is never starved. Both
lanes share the permits: the class that is furthest behind goes, in whichever lane.
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

    __slots__ = ("_number", "_ready", "_spare", "_tags", "count", "reason", "waits")

    def __init__(self) -> None:
        self._ready: dict[Priority, OrderedDict[Lineup, None]] = {priority: OrderedDict() for priority in WEIGHTS}
        self._spare: dict[Priority, OrderedDict[Lineup, None]] = {priority: OrderedDict() for priority in WEIGHTS}
        """Lineups whose head is bulk, by the class of who goes instead when bulk may not: in turn with the others."""
        self._number = 0
        self._tags = dict.fromkeys(WEIGHTS, 0.0)
        self.count = 0
        self.reason: WaitReason | None = None
        """Why they were not served at the last look; None where none was ready."""
        self.waits = Waits()
        """What a ready lineup of this lane was held back by: permits, a pause, or a look that was put off."""

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
        spare = lineup.head_class(False) if head is _BULK and lineup.root.live > 1 else None
        if spare is not lineup.spare_as:
            self._set_spare(lineup, spare)

    def remove(self, lineup: Lineup) -> None:
        if lineup.ready_as is not None:
            del self._ready[lineup.ready_as][lineup]
            lineup.ready_as = None
            self.count -= 1
            if lineup.spare_as is not None:
                self._set_spare(lineup, None)

    def next(self, bulk: bool, virtual: float) -> tuple[float, Lineup] | None:
        """The lineup whose turn it is, with its start tag."""
        best: Lineup | None = None
        start = inf
        for priority, ready in self._ready.items():
            if not bulk and priority is _BULK:
                continue
            spare = None if bulk else self._spare[priority]
            if ready or spare:
                tag = self._tags[priority]
                if tag < virtual:
                    tag = virtual
                if tag < start:
                    best, start = _longest_ago(ready, spare) if spare else next(iter(ready)), tag
        return None if best is None else (start, best)

    def served(self, lineup: Lineup, priority: Priority, cost: float, virtual: float) -> float:
        """A permit went to this class: its tag moves on, and the next of its lineups is first. Its start tag."""
        start = self._tags[priority]
        if start < virtual:
            start = virtual
        self._tags[priority] = start + cost / WEIGHTS[priority]
        if self.count > 1 and lineup.ready_as is not None:
            self._number += 1
            lineup.served_number = self._number
            self._ready[lineup.ready_as].move_to_end(lineup)
            if lineup.spare_as is not None:
                self._spare[lineup.spare_as].move_to_end(lineup)
        return start

    def _set_spare(self, lineup: Lineup, spare: Priority | None) -> None:
        if lineup.spare_as is not None:
            del self._spare[lineup.spare_as][lineup]
        if spare is not None:
            self._spare[spare][lineup] = None
        lineup.spare_as = spare

    def fork(self, copies: Copies) -> LaneTurns:
        fork, lineups = LaneTurns(), copies.lineups
        for mine, others in ((self._ready, fork._ready), (self._spare, fork._spare)):
            for priority, places in mine.items():
                others[priority] = OrderedDict.fromkeys(lineups[lineup] for lineup in places)
        fork._tags, fork._number, fork.count = dict(self._tags), self._number, self.count
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

    def next(
        self, in_flight: float, bulk_in_flight: float, limit: float, adaptive_limit: float
    ) -> tuple[Lineup, bool] | None:
        """The lineup whose turn it is, and whether bulk may go; None when with so many in flight nobody may."""
        classic, adaptive = self.of
        found, bulk = None, False
        if classic.count and in_flight < limit:
            bulk = _bulk_may_go(in_flight, bulk_in_flight, limit)
            found = classic.next(bulk, self.virtual)
        if adaptive.count and in_flight < adaptive_limit:
            bulk_too = _bulk_may_go(in_flight, bulk_in_flight, adaptive_limit)
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


def _bulk_may_go(in_flight: float, bulk_in_flight: float, limit: float) -> bool:
    """Bulk leaves one permit in ten free for the others, at least one where there is more than one.

    As many it may itself have, however many the others want: with none it would never go while they take all.
    """
    kept = 0.0 if limit <= 1 or limit == inf else max(1, limit // 10)
    return in_flight < limit - kept or bulk_in_flight < kept


def _longest_ago(ready: OrderedDict[Lineup, None], spare: OrderedDict[Lineup, None]) -> Lineup:
    """Of the first of each, the one that was served before the other."""
    other = next(iter(spare))
    if not ready:
        return other
    one = next(iter(ready))
    return one if one.served_number <= other.served_number else other
