"""Who goes next: start-time fair queueing over priority class, tenant, batch; first come first served within a batch.

Each level is a `Share`: it serves its child with the least start tag and, when a child was served a cost c, moves that
child's tag on by c / weight (Goyal, Vin, Cheng 1996). A share that was idle, or that might not go, starts at its
parent's virtual time, so nobody saves up credit. Offer, withdraw and serve are O(log of batches), whatever the number
of waiters.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import copy
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paceline.admission.copies import Copies
    from paceline.admission.lineup import Waiter

_sequence = count(1)


class Share:
    """One level's member: a class, a tenant, or (as `Flow`) a batch."""

    __slots__ = ("_children", "_only", "entry", "finish", "live", "parent", "start", "virtual", "weight")

    def __init__(self, parent: Share | None, weight: float = 1.0) -> None:
        self.parent = parent
        self.weight = weight
        self.start = self.finish = self.virtual = 0.0
        self.entry = 0
        """Its place in the parent's heap; 0 while it has nothing to be served."""
        self.live = 0
        self._children: list[tuple[float, int, Share]] = []
        self._only: Share | None = None
        """An only child that was served: its place in the heap is not moved until another comes."""

    def first(self) -> Share:
        """The child to serve next; only for a share with `live` children."""
        if self._only is not None:
            return self._only
        heap = self._children
        while heap[0][1] != heap[0][2].entry:
            heappop(heap)
        return heap[0][2]

    def enter(self) -> None:
        """It has work: it queues at its parent, and the parent at its own."""
        share = self
        while (parent := share.parent) is not None and not share.entry:
            share.start = max(parent.virtual, share.finish)
            if parent._only is not None:
                only, parent._only = parent._only, None
                if only.entry:
                    only._queue(parent)
            share._queue(parent)
            parent.live += 1
            share = parent

    def leave(self) -> None:
        """It has no work that may be served now."""
        share = self
        while (parent := share.parent) is not None and share.entry:
            share.entry = 0
            parent.live -= 1
            if parent.live:
                return
            parent._children.clear()
            parent._only = None
            share = parent

    def charge(self, cost: float) -> None:
        """It was served: move its tag, and that of every level above, on by the cost it took."""
        share = self
        while (parent := share.parent) is not None:
            if share.start > parent.virtual:
                parent.virtual = share.start
            share.finish = parent.virtual + cost / share.weight
            if share.entry:
                share.start = share.finish
                if parent.live > 1:
                    share._queue(parent)
                else:
                    parent._only = share
            share = parent

    def fork(self, parent: Share | None, copies: Copies) -> Share:
        """Its copy below the copy of its parent, still without children; see `adopt`."""
        fork = copies.shares[self] = copy(self)
        fork.parent = parent
        return fork

    def adopt(self, copies: Copies) -> None:
        """Once all its children have copies: its own copy takes them over, tags and order included."""
        fork, shares = copies.shares[self], copies.shares
        places = ((start, entry, shares[child]) for start, entry, child in self._children if entry == child.entry)
        fork._children = list(places)
        heapify(fork._children)
        fork._only = shares.get(self._only) if self._only is not None else None

    def _queue(self, parent: Share) -> None:
        self.entry = next(_sequence)
        heap = parent._children
        if len(heap) > 2 * parent.live + 64:
            # What left without being served is still in here; sweep before it outgrows what lives.
            heap[:] = [place for place in heap if place[1] == place[2].entry]
            heapify(heap)
        heappush(heap, (self.start, self.entry, self))


class Flow(Share):
    """One batch's waiters at one gate, in order of arrival."""

    __slots__ = ("waiters",)

    def __init__(self, parent: Share) -> None:
        super().__init__(parent)
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()

    def head(self) -> Waiter:
        return next(iter(self.waiters))
