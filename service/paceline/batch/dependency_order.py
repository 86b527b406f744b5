"""The order in which a batch's items start: each after its dependencies, else in the order of the request."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from msgspec import UNSET

from paceline.batch.input_errors import FieldError
from paceline.model import Item


def dependency_ids(item: Item) -> Sequence[str]:
    """The ids that an item depends on, in either spelling."""
    if item.depends_on is not UNSET:
        return item.depends_on
    return () if item.dependsOn is UNSET else item.dependsOn


def dependency_field(item: Item) -> str:
    """The spelling that an item uses."""
    return "dependsOn" if item.depends_on is UNSET else "depends_on"


def topological_order(items: Sequence[Item]) -> tuple[dict[int, list[int]], Sequence[int]]:
    """Each item's dependencies by index, and an order in which every item comes after its dependencies.

    Raises:
        FieldError: an unknown id or a cycle; names the items.
    """
    dependent_indexes = [index for index, item in enumerate(items) if dependency_ids(item)]
    if not dependent_indexes:
        return {}, range(len(items))
    index_of = {str(index) if item.id is UNSET else item.id: index for index, item in enumerate(items)}
    dependencies: dict[int, list[int]] = {}
    for index in dependent_indexes:
        unknown = [name for name in dependency_ids(items[index]) if name not in index_of]
        if unknown:
            problem = f"names {unknown[0][:100]!r}, which is no id of this batch; correct it, or add that item"
            raise FieldError(f"requests[{index}].depends_on", problem)
        dependencies[index] = [index_of[name] for name in dependency_ids(items[index])]
    order = _kahn_sort(dependencies, len(items))
    if len(order) < len(items):
        ordered = set(order)
        cyclic = ", ".join([str(index) for index in dependencies if index not in ordered][:20])
        problem = f"cannot be put in order: depends_on goes round in a circle among requests {cyclic}; break it"
        raise FieldError("requests", problem)
    return dependencies, order


def _kahn_sort(dependencies: dict[int, list[int]], total: int) -> list[int]:
    """Sort topologically, nearest to the request's own order (Kahn 1962); leave out indexes in a cycle."""
    unmet_counts = {index: len(set(wanted)) for index, wanted in dependencies.items()}
    dependents: dict[int, list[int]] = {}
    for index, wanted in dependencies.items():
        for need in set(wanted):
            dependents.setdefault(need, []).append(index)
    ready = [index for index in range(total) if index not in unmet_counts]  # in order, so a heap
    order: list[int] = []
    while ready:
        index = heappop(ready)
        order.append(index)
        for dependent in dependents.get(index, ()):
            unmet_counts[dependent] -= 1
            if not unmet_counts[dependent]:
                heappush(ready, dependent)
    return order
