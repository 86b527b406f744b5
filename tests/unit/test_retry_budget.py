"""Retries are a share of what is sent anyway, and a few a second."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.resilience.retry_budget import RetryBudget


def spent(budget: RetryBudget, now: float) -> int:
    count = 0
    while budget.allow(now):
        count += 1
    return count


def test_the_first_second_s_are_there_from_the_start() -> None:
    assert spent(RetryBudget(), 100.0) == 3


def test_a_fifth_of_what_is_sent_comes_on_top() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.sent(100.0)
    assert spent(budget, 100.0) == 23


def test_what_was_earned_is_lost_after_the_window() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.sent(100.0)
    assert spent(budget, 111.0) == 3


def test_the_seconds_add_up_to_one_second_at_most() -> None:
    budget = RetryBudget()
    assert spent(budget, 100.0) == 3
    assert spent(budget, 100.5) == 1
    assert spent(budget, 160.0) == 3


def test_without_either_there_are_none() -> None:
    budget = RetryBudget(ratio=0.0001, per_s=0.0)
    budget.sent(1.0)
    assert not budget.allow(1.0)


@settings(max_examples=200, deadline=None)
@given(
    acts=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 30)), min_size=1, max_size=80),
    ratio=st.sampled_from([0.1, 0.2, 1.0]),
    per_s=st.sampled_from([0.0, 0.5, 3.0]),
)
def test_in_any_stretch_retries_stay_within_the_stated_bound(
    acts: list[tuple[float, int]], ratio: float, per_s: float
) -> None:
    budget = RetryBudget(ratio, per_s)
    now = 50.0
    sends: list[float] = []
    retries: list[float] = []
    for after_s, count in acts:
        now += after_s
        for _ in range(count):
            budget.sent(now)
            sends.append(now)
        retries += [now] * spent(budget, now)
    for start in set(retries):
        for end in set(retries):
            if end >= start:
                within = sum(start <= moment <= end for moment in retries)
                earned = sum(start - 10 <= moment <= end for moment in sends)
                assert within <= ratio * earned + per_s * (end - start + 1) + 1 + 1e-6
