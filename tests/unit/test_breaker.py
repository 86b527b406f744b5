"""The breaker by its rules, each moment given."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.resilience.breaker import UNCOUNTED, Breaker, BreakerPolicy, BreakerState


def longest(low: float, high: float) -> float:
    return high


def breaker(**policy: float) -> Breaker:
    return Breaker(BreakerPolicy(**policy), longest)  # type: ignore[arg-type]  # the numbers are the fields' own


def call(it: Breaker, success: bool | None, now: float) -> None:
    it.settled(success, it.granted(now), now)


def opened(at: float = 100.0) -> Breaker:
    it = breaker()
    for _ in range(20):
        call(it, False, at)
    return it


def test_it_opens_at_half_of_twenty_calls_and_not_before() -> None:
    it = breaker()
    for n in range(19):
        call(it, n % 2 == 0, 100.0)
    assert it.state(100.0) is BreakerState.CLOSED
    call(it, False, 100.0)
    assert it.state(100.0) is BreakerState.OPEN
    assert not it.allows(100.0)


def test_less_than_half_failing_never_opens_it() -> None:
    it = breaker()
    for n in range(1_000):
        call(it, n % 5 >= 2, 100 + n / 100)
    assert it.state(110.0) is BreakerState.CLOSED


def test_calls_older_than_the_window_do_not_count() -> None:
    it = breaker()
    for _ in range(15):
        call(it, False, 100.0)
    for _ in range(5):
        call(it, False, 111.0)
    assert it.state(111.0) is BreakerState.CLOSED


def test_what_says_nothing_never_counts() -> None:
    it = breaker()
    for _ in range(100):
        call(it, None, 100.0)
    assert it.state(100.0) is BreakerState.CLOSED


def test_one_trial_goes_at_each_interval_which_doubles_to_the_longest() -> None:
    it = opened()
    now, gaps = 100.0, []
    for _ in range(6):
        due = it.next_trial_at(now)
        gaps.append(due - now)
        assert not it.allows(due - 0.001)
        now = due
        assert it.allows(now)
        ticket = it.granted(now)
        assert ticket != UNCOUNTED
        assert not it.allows(now)
        it.settled(False, ticket, now)
    assert gaps == pytest.approx([0.95, 1.9, 3.8, 4.75, 4.75, 4.75])


def test_a_trial_that_succeeds_closes_it_and_counting_starts_anew() -> None:
    it = opened()
    now = it.next_trial_at(100.0)
    it.settled(True, it.granted(now), now)
    assert it.state(now) is BreakerState.CLOSED
    for _ in range(19):
        call(it, False, now)
    assert it.state(now) is BreakerState.CLOSED


def test_at_most_three_trials_are_unanswered() -> None:
    it = opened()
    now = 100.0
    for _ in range(3):
        now = it.next_trial_at(now)
        it.granted(now)
    assert not it.allows(now + 60)
    assert it.state(now + 60) is BreakerState.HALF_OPEN


def test_a_trial_that_is_ignored_is_given_back() -> None:
    it = opened()
    now = it.next_trial_at(100.0)
    it.settled(None, it.granted(now), now + 0.2)
    assert it.allows(now + 0.2)


def test_an_answer_from_before_it_opened_says_nothing_about_after() -> None:
    it = breaker()
    early = it.granted(99.0)
    for _ in range(20):
        call(it, False, 100.0)
    it.settled(True, early, 100.1)
    assert it.state(100.1) is BreakerState.OPEN


def test_calls_that_are_not_bound_by_it_count_for_nothing_while_it_is_open() -> None:
    it = opened()
    assert it.granted(100.1) == UNCOUNTED
    it.settled(True, UNCOUNTED, 100.2)
    assert it.state(100.2) is BreakerState.OPEN


def test_opening_again_soon_goes_on_with_the_interval_it_had() -> None:
    it = opened()
    now = 100.0
    for _ in range(3):
        now = it.next_trial_at(now)
        it.settled(False, it.granted(now), now)
    now = it.next_trial_at(now)
    it.settled(True, it.granted(now), now)
    for _ in range(20):
        call(it, False, now + 0.1)
    assert it.next_trial_at(now + 0.1) - (now + 0.1) == pytest.approx(4.75)


def test_a_reset_closes_it() -> None:
    it = opened()
    it.reset()
    assert it.allows(100.0)
    assert it.next_trial_at(100.0) == -inf


@settings(max_examples=150, deadline=None)
@given(acts=st.lists(st.tuples(st.floats(0, 2), st.sampled_from([True, False, None]), st.integers(0, 5)), max_size=200))
def test_a_recovered_upstream_is_found_within_five_seconds_whatever_came_before(
    acts: list[tuple[float, bool | None, int]],
) -> None:
    it = Breaker(BreakerPolicy())
    now, under_way = 0.0, [it.granted(0.0)]
    for after_s, success, which in acts:
        now += after_s
        if it.allows(now):
            under_way.append(it.granted(now))
        if under_way:
            it.settled(success, under_way.pop(which % len(under_way)), now)
    for ticket in under_way:
        it.settled(False, ticket, now)
    recovered_at = now
    while it.state(now) is not BreakerState.CLOSED:
        now = max(now, it.next_trial_at(now))
        assert it.allows(now)
        it.settled(True, it.granted(now), now)
    assert now - recovered_at <= 5.0
