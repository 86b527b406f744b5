"""The breaker: opens on failures alone, tries at intervals that end, closes on the first trial that succeeds."""

from __future__ import annotations

import pytest

from paceline.resilience.breaker import UNCOUNTED_TICKET, Breaker, BreakerPolicy, BreakerState

POLICY = BreakerPolicy()


def breaker(policy: BreakerPolicy = POLICY) -> Breaker:
    """One whose jitter is always the longest."""
    return Breaker(policy, draw_uniform=lambda low, high: high)


def call(breaker: Breaker, success: bool | None, now: float) -> None:
    breaker.on_result(success, breaker.on_grant(now), now)


def opened(now: float = 100.0, policy: BreakerPolicy = POLICY) -> Breaker:
    it = breaker(policy)
    for _ in range(policy.min_calls):
        call(it, False, now)
    assert it.state(now) is BreakerState.OPEN
    return it


def test_twenty_calls_of_which_half_failed_open_it() -> None:
    it = breaker()
    for number in range(19):
        call(it, number % 2 == 0, 100.0)
    assert it.state(100.0) is BreakerState.CLOSED
    call(it, False, 100.0)
    assert it.state(100.0) is BreakerState.OPEN
    assert not it.allows_call(100.0)


def test_nineteen_failures_do_not_and_a_success_can_be_the_twentieth_call() -> None:
    it = breaker()
    for _ in range(19):
        call(it, False, 100.0)
    assert it.allows_call(100.0)
    call(it, True, 100.0)
    assert not it.allows_call(100.0)


def test_fewer_than_half_keep_it_closed() -> None:
    it = breaker()
    for number in range(1000):
        call(it, number % 100 < 51, 100.0 + number * 0.001)
        assert it.state(101.0) is BreakerState.CLOSED


def test_failures_are_forgotten_after_the_window() -> None:
    it = breaker()
    for _ in range(19):
        call(it, False, 100.0)
    call(it, False, 110.0)
    assert it.state(110.0) is BreakerState.CLOSED


def test_failures_are_remembered_for_nearly_the_window() -> None:
    it = breaker()
    for _ in range(19):
        call(it, False, 100.0)
    call(it, False, 109.4)
    assert it.state(109.4) is BreakerState.OPEN


@pytest.mark.parametrize("after_s", [10.0, 500.0, 1e7])
def test_nothing_is_left_of_a_window_long_gone(after_s: float) -> None:
    it = breaker()
    for _ in range(19):
        call(it, False, 100.0)
    for _ in range(19):
        call(it, False, 100.0 + after_s)
    assert it.state(100.0 + after_s) is BreakerState.CLOSED


def test_what_says_nothing_about_the_upstream_never_counts() -> None:
    it = breaker()
    for _ in range(1000):
        call(it, None, 100.0)
    assert it.allows_call(100.0)
    for _ in range(19):
        call(it, False, 100.0)
    assert it.allows_call(100.0)


def test_intervals_double_to_the_longest_and_jitter_only_shortens_them() -> None:
    it = opened(100.0)
    now, intervals = 100.0, []
    for _ in range(6):
        due = it.next_trial_at(now)
        intervals.append(round(due - now, 6))
        now = due
        call(it, False, now)
    assert intervals == [0.9, 1.8, 3.6, 4.5, 4.5, 4.5]


def test_one_trial_goes_at_each_interval() -> None:
    it = opened(100.0)
    assert not it.allows_call(100.85)
    assert it.state(100.9) is BreakerState.HALF_OPEN
    assert it.allows_call(100.9)
    assert it.on_grant(100.9) != UNCOUNTED_TICKET
    assert not it.allows_call(100.9)
    assert it.next_trial_at(100.9) == pytest.approx(102.7)


def test_a_trial_that_succeeds_closes_it_and_the_counts_start_anew() -> None:
    it = opened(100.0)
    call(it, True, 101.0)
    assert it.state(101.0) is BreakerState.CLOSED
    assert it.next_trial_at(101.0) < 0
    for _ in range(19):
        call(it, False, 101.0)
    assert it.state(101.0) is BreakerState.CLOSED


def test_opening_again_soon_goes_on_with_the_interval_it_had() -> None:
    it = opened(100.0)
    call(it, True, 101.0)
    for _ in range(20):
        call(it, False, 102.0)
    assert it.next_trial_at(102.0) == pytest.approx(102.0 + 0.9 * 4)


def test_opening_again_later_starts_with_the_first_interval() -> None:
    it = opened(100.0)
    call(it, True, 101.0)
    for _ in range(20):
        call(it, False, 111.5)
    assert it.next_trial_at(111.5) == pytest.approx(111.5 + 0.9)


def test_at_most_three_trials_are_unanswered() -> None:
    it, now, tickets = opened(100.0), 100.0, []
    for _ in range(3):
        now = it.next_trial_at(now)
        tickets.append(it.on_grant(now))
    assert not it.allows_call(now + 1000)
    assert it.next_trial_at(now + 1000) > now + 1000
    assert it.state(now + 1000) is BreakerState.HALF_OPEN
    it.on_result(False, tickets[0], now + 1000)
    assert it.allows_call(now + 1000)


def test_any_of_the_unanswered_trials_may_close_it() -> None:
    it, now, tickets = opened(100.0), 100.0, []
    for _ in range(3):
        now = it.next_trial_at(now)
        tickets.append(it.on_grant(now))
    it.on_result(True, tickets[1], now)
    assert it.state(now) is BreakerState.CLOSED
    for ticket in (tickets[0], tickets[2]):
        it.on_result(False, ticket, now)
    for _ in range(19):
        call(it, False, now)
    assert it.state(now) is BreakerState.CLOSED, "a trial of the time before counted"


def test_an_ignored_trial_is_given_back() -> None:
    it = opened(100.0)
    call(it, None, 101.0)
    assert not it.allows_call(101.9), "or they would follow one another at once"
    assert it.allows_call(102.0)
    call(it, False, 102.0)
    assert it.next_trial_at(102.0) == pytest.approx(102.0 + 0.9 * 2), "the interval there was before the ignored one"


def test_calls_from_before_it_opened_say_nothing_while_it_is_open() -> None:
    it = breaker()
    early = [it.on_grant(100.0) for _ in range(30)]
    for ticket in early[:20]:
        it.on_result(False, ticket, 100.0)
    it.on_result(True, early[20], 100.5)
    assert it.state(100.5) is BreakerState.OPEN
    it.on_result(None, early[21], 100.5)
    assert not it.allows_call(100.5)


def test_calls_from_before_it_opened_do_not_open_it_again_after_it_closed() -> None:
    it = breaker()
    early = [it.on_grant(100.0) for _ in range(60)]
    for ticket in early[:20]:
        it.on_result(False, ticket, 100.0)
    call(it, True, 101.0)
    for ticket in early[20:]:
        it.on_result(False, ticket, 110.0)
    assert it.state(110.0) is BreakerState.CLOSED


def test_a_call_that_is_not_bound_by_it_counts_only_as_a_trial_that_was_due() -> None:
    it = opened(100.0)
    assert it.on_grant(100.1) == UNCOUNTED_TICKET
    it.on_result(True, UNCOUNTED_TICKET, 100.2)
    assert it.state(100.2) is BreakerState.OPEN
    ticket = it.on_grant(101.0)
    assert ticket != UNCOUNTED_TICKET
    it.on_result(True, ticket, 101.0)
    assert it.state(101.0) is BreakerState.CLOSED


def test_reset_closes_it_and_what_is_under_way_counts_for_nothing() -> None:
    it = opened(100.0)
    ticket = it.on_grant(101.0)
    it.reset()
    assert it.allows_call(101.0)
    it.on_result(False, ticket, 101.0)
    for _ in range(19):
        call(it, False, 101.0)
    assert it.state(101.0) is BreakerState.CLOSED
    call(it, False, 101.0)
    assert it.state(101.0) is BreakerState.OPEN
    assert it.next_trial_at(101.0) == pytest.approx(101.9)


def test_retune_keeps_the_state() -> None:
    it = opened(100.0)
    it.retune(BreakerPolicy(window_s=5.0, max_open_s=1.5))
    assert it.state(100.0) is BreakerState.OPEN
    call(it, False, 101.0)
    assert it.next_trial_at(101.0) == pytest.approx(101.0 + 0.9 * 1.5)
