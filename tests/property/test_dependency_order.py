"""An order in which every item comes after what it depends on, or the error that says why there is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.batch.dependency_order import topological_order
from paceline.batch.input_errors import FieldError
from paceline.model import Item

GRAPHS = st.integers(1, 12).flatmap(
    lambda count: st.lists(
        st.lists(st.integers(0, count - 1), max_size=3), min_size=count, max_size=count
    )
)  # fmt: skip


@given(GRAPHS)
def test_a_plan_puts_everything_after_what_it_waits_for_or_names_the_circle(graph: list[list[int]]):
    batch_items = [Item(depends_on=[str(need) for need in needs]) for needs in graph]
    if circular(graph):
        with pytest.raises(FieldError, match="circle"):
            topological_order(batch_items)
        return
    needs, order = topological_order(batch_items)
    assert sorted(order) == list(range(len(graph)))
    place = {index: at for at, index in enumerate(order)}
    for index, wanted in enumerate(graph):
        assert all(place[need] < place[index] for need in wanted)
        assert needs.get(index, []) == wanted


@given(GRAPHS)
def test_a_plan_keeps_the_requests_own_order_where_nothing_forbids_it(graph: list[list[int]]):
    backwards = [[need for need in needs if need < index] for index, needs in enumerate(graph)]
    _, order = topological_order([Item(depends_on=[str(need) for need in needs]) for needs in backwards])
    assert list(order) == list(range(len(graph)))


def circular(graph: list[list[int]]) -> bool:
    """By taking away whatever waits for nothing, until that changes nothing."""
    left = dict(enumerate(graph))
    while free := [index for index, needs in left.items() if not any(need in left for need in needs)]:
        for index in free:
            del left[index]
    return bool(left)


def test_an_unknown_id_is_named():
    with pytest.raises(FieldError, match=r"requests\[1\].depends_on names 'x'"):
        topological_order([Item(), Item(dependsOn=["x"])])
