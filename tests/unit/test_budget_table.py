"""The number of partitions is bounded, and finding one to evict stays cheap."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest

from paceline.admission.budget import Budget
from paceline.admission.budget_table import BudgetTable

MOST = 100


@pytest.fixture
def looks() -> Iterator[list[str]]:
    """Which partitions were looked at; those whose name has `busy` in it may not be dropped."""
    seen: list[str] = []

    def is_idle(budget: Budget, now: float, max_window_s: float) -> bool:
        seen.append(budget.key)
        return "busy" not in budget.key

    with (
        mock.patch("paceline.admission.budget_table._MAX_BUDGETS", MOST),
        mock.patch.object(Budget, "is_idle", is_idle),
    ):
        yield seen


def known(*names: str) -> BudgetTable:
    budgets = BudgetTable([], 0.05, 900.0)
    for name in names:
        budgets.get_or_create(name, 0.0)
    return budgets


def test_who_finds_all_busy_spares_those_behind_the_search(looks: list[str]):
    budgets = known(*(f"busy {n}" for n in range(MOST)))
    for n in range(1_000):
        with pytest.raises(LookupError, match="busy"):
            budgets.get_or_create(f"new {n}", 10.0)
    assert len(looks) == MOST
    assert len(budgets) == MOST


def test_one_that_is_free_again_is_found_a_second_later(looks: list[str]):
    budgets = known(*(f"busy {n}" for n in range(MOST)))
    with pytest.raises(LookupError):
        budgets.get_or_create("new", 10.0)
    freed = budgets.get_or_create("busy 7", 10.5)[0].budget
    freed.key = "free"
    assert budgets.get_or_create("new", 11.0)[0].budget.key == "new"
    assert freed.is_evicted


def test_those_that_stay_busy_are_not_looked_at_for_each_one_dropped(looks: list[str]):
    budgets = known(*(f"busy {n}" for n in range(MOST // 2)), *(f"idle {n}" for n in range(MOST // 2)))
    for n in range(MOST // 2):
        budgets.get_or_create(f"new {n}", 10.0)
    assert len(looks) == MOST


def test_to_look_at_them_makes_none():
    budgets = known()
    assert [budget.key for budget in budgets.snapshot()] == ["upstream"]
    assert len(budgets) == 0
