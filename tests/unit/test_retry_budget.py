"""The retry budget: a fifth of what is sent anyway, three a second besides, and never more in any stretch of time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.resilience.retry_budget import RetryBudget
from support.hypothesis_profiles import examples


def spent(budget: RetryBudget, now: float, wanted: int = 10_000) -> int:
    return sum(budget.try_spend(now) for _ in range(wanted))


def test_an_idle_upstream_has_one_seconds_retries() -> None:
    assert spent(RetryBudget(), 100.0) == 3


def test_sends_earn_a_fifth() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.on_first_send(100.0)
    assert budget.remaining(100.0) == pytest.approx(23)
    assert spent(budget, 100.0) == 23
    assert budget.remaining(100.0) == pytest.approx(0, abs=1e-6)


def test_what_was_earned_is_lost_after_ten_seconds() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.on_first_send(100.0)
    assert budget.remaining(109.4) == pytest.approx(23)
    assert budget.remaining(110.0) == pytest.approx(3)


def test_three_come_back_each_second_and_no_more_are_kept() -> None:
    budget = RetryBudget()
    spent(budget, 100.0)
    assert not budget.try_spend(100.3)
    assert budget.try_spend(100.34)
    assert spent(budget, 200.0) == 3


def test_the_seconds_retries_are_spent_before_the_earned_ones() -> None:
    budget = RetryBudget()
    for _ in range(50):
        budget.on_first_send(100.0)
    assert spent(budget, 100.0, 3) == 3
    assert budget.remaining(101.0) == pytest.approx(13)


def test_parts_of_a_retry_add_up() -> None:
    budget = RetryBudget(retries_per_s=0.0)
    for _ in range(4):
        budget.on_first_send(100.0)
    assert not budget.try_spend(100.0)
    budget.on_first_send(103.0)
    assert budget.try_spend(103.0)


def test_a_rate_below_one_a_second_still_gives_whole_retries() -> None:
    budget = RetryBudget(ratio=0.0, retries_per_s=0.1)
    assert spent(budget, 100.0) == 1
    assert not budget.try_spend(109.0)
    assert budget.try_spend(110.01)


def test_nothing_is_allowed_where_nothing_is_given() -> None:
    budget = RetryBudget(ratio=0.0, retries_per_s=0.0)
    budget.on_first_send(100.0)
    assert spent(budget, 1000.0) == 0


def test_retune_keeps_what_was_earned_and_reset_forgets_it() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.on_first_send(100.0)
    budget.retune(0.5, 1.0)
    assert budget.remaining(100.0) == pytest.approx(21)
    budget.reset()
    assert budget.remaining(100.0) == pytest.approx(1)


def test_a_total_outage_under_steady_load_costs_a_fifth_and_three_a_second() -> None:
    budget, sends, retries, now = RetryBudget(), 0, 0, 100.0
    for _ in range(20_000):
        now += 0.001
        budget.on_first_send(now)
        sends += 1
        retries += budget.try_spend(now) + budget.try_spend(now)
    assert retries <= 0.2 * sends + 3 * (20 + 1)
    assert retries >= 0.2 * sends + 3 * 20 - 1, "what is allowed is also given"


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.001, 0.1, 0.49, 1.0, 3.3, 9.99, 25.0]), st.integers(0, 30), st.integers(0, 30)
        ),
        max_size=60,
    ),
    ratio=st.sampled_from([0.0, 0.1, 0.2, 1.0]),
    per_s=st.sampled_from([0.0, 0.5, 3.0]),
)
@examples(100)
def test_in_any_stretch_retries_stay_within_their_share(
    steps: list[tuple[float, int, int]], ratio: float, per_s: float
) -> None:
    budget, now = RetryBudget(ratio, per_s), 1000.0
    sends: list[float] = []
    retries: list[float] = []
    for step_s, sent, wanted in steps:
        now += step_s
        for _ in range(sent):
            budget.on_first_send(now)
            sends.append(now)
        for _ in range(wanted):
            remaining = budget.remaining(now)
            allowed = budget.try_spend(now)
            assert allowed == (remaining >= 1 - 1e-9)
            retries += [now] if allowed else []
        assert budget.remaining(now) >= -1e-6
    moments = sorted(set(retries))
    for since in moments:
        for until in moments:
            if until < since:
                continue
            count = sum(since <= moment <= until for moment in retries)
            earned = ratio * sum(since - 10 <= moment <= until for moment in sends)
            kept = max(1.0, per_s) if per_s else 0.0
            assert count <= earned + per_s * (until - since) + kept + 1e-6
