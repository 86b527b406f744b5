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
    from paceline.admission.copy_memo import CopyMemo
    from paceline.admission.lane_queue import Waiter

_sequence = count(1)


class FairNode:
    """One level's member: a class, a tenant, or (as `Flow`) a batch."""

    __slots__ = (
        "_heap",
        "_only_child",
        "active_children",
        "finish_tag",
        "heap_sequence",
        "parent",
        "start_tag",
        "virtual_time",
        "weight",
    )

    def __init__(self, parent: FairNode | None, weight: float = 1.0) -> None:
        self.parent = parent
        self.weight = weight
        self.start_tag = self.finish_tag = self.virtual_time = 0.0
        self.heap_sequence = 0
        """Its place in the parent's heap; 0 while it has nothing to be served."""
        self.active_children = 0
        self._heap: list[tuple[float, int, FairNode]] = []
        self._only_child: FairNode | None = None
        """An only child that was served: its place in the heap is not moved until another comes."""

    def first_child(self) -> FairNode:
        """The child to serve next; only for a share with `live` children."""
        if self._only_child is not None:
            return self._only_child
        heap = self._heap
        while heap[0][1] != heap[0][2].heap_sequence:
            heappop(heap)
        return heap[0][2]

    def activate(self) -> None:
        """It has work: it queues at its parent, and the parent at its own."""
        node = self
        while (parent := node.parent) is not None and not node.heap_sequence:
            node.start_tag = max(parent.virtual_time, node.finish_tag)
            if parent._only_child is not None:
                only_child, parent._only_child = parent._only_child, None
                if only_child.heap_sequence:
                    only_child._push_to(parent)
            node._push_to(parent)
            parent.active_children += 1
            node = parent

    def deactivate(self) -> None:
        """It has no work that may be served now."""
        node = self
        while (parent := node.parent) is not None and node.heap_sequence:
            node.heap_sequence = 0
            parent.active_children -= 1
            if parent.active_children:
                return
            parent._heap.clear()
            parent._only_child = None
            node = parent

    def charge(self, cost: float) -> None:
        """It was served: move its tag, and that of every level above, on by the cost it took."""
        node = self
        while (parent := node.parent) is not None:
            if node.start_tag > parent.virtual_time:
                parent.virtual_time = node.start_tag
            node.finish_tag = parent.virtual_time + cost / node.weight
            if node.heap_sequence:
                node.start_tag = node.finish_tag
                if parent.active_children > 1:
                    node._push_to(parent)
                else:
                    parent._only_child = node
            node = parent

    def copy(self, parent: FairNode | None, memo: CopyMemo) -> FairNode:
        """Its copy below the copy of its parent, still without children; see `adopt`."""
        clone = memo.nodes[self] = copy(self)
        clone.parent = parent
        return clone

    def copy_children(self, memo: CopyMemo) -> None:
        """Once all its children have copies: its own copy takes them over, tags and order included."""
        clone, nodes = memo.nodes[self], memo.nodes
        entries = ((start, entry, nodes[child]) for start, entry, child in self._heap if entry == child.heap_sequence)
        clone._heap = list(entries)
        heapify(clone._heap)
        clone._only_child = nodes.get(self._only_child) if self._only_child is not None else None

    def _push_to(self, parent: FairNode) -> None:
        self.heap_sequence = next(_sequence)
        heap = parent._heap
        if len(heap) > 2 * parent.active_children + 64:
            # What left without being served is still in here; sweep before it outgrows what lives.
            heap[:] = [entry for entry in heap if entry[1] == entry[2].heap_sequence]
            heapify(heap)
        heappush(heap, (self.start_tag, self.heap_sequence, self))


class Flow(FairNode):
    """One batch's waiters at one gate, in order of arrival."""

    __slots__ = ("waiters",)

    def __init__(self, parent: FairNode) -> None:
        super().__init__(parent)
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()

    def head(self) -> Waiter:
        return next(iter(self.waiters))
