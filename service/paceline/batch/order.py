"""The order a batch's items may go in: everything after what it depends on, else as the request has them."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from msgspec import UNSET

from paceline.model import Item


def needs_of(item: Item) -> Sequence[str]:
    """The ids an item waits for, by either spelling."""
    if item.depends_on is not UNSET:
        return item.depends_on
    return () if item.dependsOn is UNSET else item.dependsOn


def in_order(items: Sequence[Item]) -> tuple[dict[int, list[int]], Sequence[int]]:
    """What each item waits for, by index, and an order in which everything comes after what it waits for.

    Raises:
        ValueError: an unknown id or a cycle; the message names the items.
    """
    waiting = [index for index, item in enumerate(items) if needs_of(item)]
    if not waiting:
        return {}, range(len(items))
    index_of = {str(index) if item.id is UNSET else item.id: index for index, item in enumerate(items)}
    needs: dict[int, list[int]] = {}
    for index in waiting:
        unknown = [name for name in needs_of(items[index]) if name not in index_of]
        if unknown:
            problem = f"names {unknown[0][:100]!r}, which is no id of this batch; correct it, or add that item"
            raise ValueError(f"requests[{index}].depends_on {problem}")
        needs[index] = [index_of[name] for name in needs_of(items[index])]
    order = _sorted(needs, len(items))
    if len(order) < len(items):
        placed = set(order)
        stuck = ", ".join([str(index) for index in needs if index not in placed][:20])
        raise ValueError(f"depends_on goes round in a circle among requests {stuck}; break it")
    return needs, order


def _sorted(needs: dict[int, list[int]], total: int) -> list[int]:
    """Indexes in the topological order nearest to the request's own (Kahn 1962); without those in a circle."""
    missing = {index: len(set(wanted)) for index, wanted in needs.items()}
    followers: dict[int, list[int]] = {}
    for index, wanted in needs.items():
        for need in set(wanted):
            followers.setdefault(need, []).append(index)
    free = [index for index in range(total) if index not in missing]  # in order, so a heap
    order: list[int] = []
    while free:
        index = heappop(free)
        order.append(index)
        for follower in followers.get(index, ()):
            missing[follower] -= 1
            if not missing[follower]:
                heappush(free, follower)
    return order
