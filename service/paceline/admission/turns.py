"""Whose turn a free permit is, among the lineups of one lane: by class, and in turn within a class."""

from __future__ import annotations

from collections import OrderedDict
from copy import copy
from math import inf

from paceline.admission.copies import Copies
from paceline.admission.lineup import WEIGHTS, Lineup
from paceline.admission.waits import Waits
from paceline.model import Priority, WaitReason

_BULK = Priority.BULK


class Turns:
    """Ready lineups of one lane: by class, and in turn within a class."""

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

    def fork(self, copies: Copies) -> Turns:
        fork, lineups = Turns(), copies.lineups
        for priority, ready in self._ready.items():
            fork._ready[priority] = OrderedDict.fromkeys(lineups[lineup] for lineup in ready)
        fork._spare = OrderedDict.fromkeys(lineups[lineup] for lineup in self._spare)
        fork._tags, fork.count = dict(self._tags), self.count
        fork.reason, fork.waits = self.reason, copy(self.waits)
        return fork
