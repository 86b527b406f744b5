"""Hierarchical start-time fair queueing: priority class, then tenant, then batch.

A `FairNode` serves the child with the least start tag. When a child is served a cost c, its tag advances by c / weight
(Goyal, Vin, Cheng 1996). A node that becomes active starts at its parent's virtual time, so an idle node saves up no
credit. Activating, deactivating and charging a node take O(log of its siblings), whatever the number of waiters.
"""

from __future__ import annotations

from copy import copy
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Self

from paceline.rate.window import CopyMemo

_sequence = count(1)


class FairNode:
    """One member of one level: a class, a tenant, or a batch (`BatchFlow`)."""

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
        """The number of its entry in the parent's heap; 0 while it is not active."""
        self.active_children = 0
        self._heap: list[tuple[float, int, FairNode]] = []
        self._only_child: FairNode | None = None
        """An only active child that was served: its heap entry stays as it is until a second child becomes active."""

    def first_child(self) -> FairNode:
        """Return the child to serve next; requires `active_children`."""
        if self._only_child is not None:
            return self._only_child
        heap = self._heap
        while heap[0][1] != heap[0][2].heap_sequence:
            heappop(heap)
        return heap[0][2]

    def activate(self) -> None:
        """Queue this node at its parent, and every parent at its own, as far as they are not active yet."""
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
        """Take this node out of its parent's queue, and every parent that is left without an active child."""
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
        """Advance the tags of this node and of every level above it by the cost that was served."""
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

    def copy(self, memo: CopyMemo) -> Self:
        """Copy this node with its parents and its active children, tags and order included."""
        clone: Self | None = memo.get(self)
        if clone is None:
            clone = memo[self] = copy(self)
            clone.parent = self.parent and self.parent.copy(memo)
            clone._heap = [
                (start_tag, sequence, child.copy(memo))
                for start_tag, sequence, child in self._heap
                if sequence == child.heap_sequence
            ]
            heapify(clone._heap)
            clone._only_child = self._only_child and self._only_child.copy(memo)
        return clone

    def _push_to(self, parent: FairNode) -> None:
        self.heap_sequence = next(_sequence)
        heap = parent._heap
        if len(heap) > 2 * parent.active_children + 64:
            # Nodes that were deactivated leave their entries behind: sweep before these outnumber the live ones.
            heap[:] = [entry for entry in heap if entry[1] == entry[2].heap_sequence]
            heapify(heap)
        heappush(heap, (self.start_tag, self.heap_sequence, self))
