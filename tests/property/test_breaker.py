"""The breaker as a whole: it finds a recovered upstream in time, and keeps its word whatever happens to its calls."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from paceline.resilience.breaker import UNCOUNTED_TICKET, Breaker, BreakerPolicy, BreakerState
from support.hypothesis_profiles import examples

ROUND_TRIP_S = 0.02


@pytest.mark.parametrize("down_for_s", [0.5, 3.0, 30.0, 600.0, 86_400.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_recovered_upstream_is_found_within_five_seconds_however_long_it_was_down(
    down_for_s: float, seed: int
) -> None:
    draw = random.Random(seed)
    breaker = Breaker(BreakerPolicy(), draw.uniform)
    now = 1000.0
    recovers_at = now + down_for_s * draw.uniform(1, 1.5)
    for _ in range(20):
        breaker.on_result(False, breaker.on_grant(now), now)
    sends = 0
    while breaker.state(now) is not BreakerState.CLOSED:
        now = max(now, breaker.next_trial_at(now))
        assert breaker.allows_call(now)
        ticket = breaker.on_grant(now)
        sends += 1
        up = now >= recovers_at
        now += ROUND_TRIP_S
        breaker.on_result(up, ticket, now)
    assert now <= recovers_at + 5.0
    assert sends <= 5 + down_for_s * 1.5 / (5.0 * 0.75)


@pytest.mark.parametrize("seed", range(5))
def test_one_that_swallowed_everything_is_found_five_seconds_after_its_last_timeout(seed: int) -> None:
    draw = random.Random(seed)
    breaker = Breaker(BreakerPolicy(), draw.uniform)
    timeout_s, now = 30.0, 1000.0
    for _ in range(20):
        breaker.on_result(False, breaker.on_grant(now), now)
    recovers_at = now + draw.uniform(1, 100)
    unanswered: deque[tuple[float, int]] = deque()
    while breaker.state(now) is not BreakerState.CLOSED:
        now = min(breaker.next_trial_at(now), unanswered[0][0]) if unanswered else breaker.next_trial_at(now)
        while unanswered and unanswered[0][0] <= now:
            breaker.on_result(False, unanswered.popleft()[1], now)
        if breaker.allows_call(now):
            ticket = breaker.on_grant(now)
            if now >= recovers_at:
                breaker.on_result(True, ticket, now + ROUND_TRIP_S)
            else:
                unanswered.append((now + timeout_s, ticket))
        assert len(unanswered) <= 3
    assert now <= recovers_at + timeout_s + 5.0


class AnyCalls(RuleBasedStateMachine):
    """Calls that go, come back and say anything in any order, against a plain model of the rules."""

    tickets: Bundle[int] = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.policy = BreakerPolicy(min_calls=5, window_s=10.0, trials=2)
        self.breaker = Breaker(self.policy, random.Random(0).uniform)
        self.now = 1000.0
        self.counted: list[tuple[float, bool]] = []
        self.trials: set[int] = set()
        self.trial_moments: list[float] = []
        self.next_id = 0
        self.of: dict[int, tuple[int, bool]] = {}
        self.live: set[int] = set()

    @rule(step_s=st.floats(0, 4))
    def wait(self, step_s: float) -> None:
        self.now += step_s

    @rule(target=tickets)
    def grant(self) -> int:
        was_open = self.breaker.state(self.now) is not BreakerState.CLOSED
        allowed = self.breaker.allows_call(self.now)
        ticket = self.breaker.on_grant(self.now)
        self.next_id += 1
        self.of[self.next_id] = (ticket, was_open and allowed)
        if was_open and allowed:
            assert len(self.trials) < self.policy.trials
            self.trials.add(self.next_id)
        elif was_open:
            assert ticket == UNCOUNTED_TICKET
        else:
            self.live.add(self.next_id)
        return self.next_id

    @rule(call=consumes(tickets), success=st.sampled_from([True, False, False, None]))
    def settle(self, call: int, success: bool | None) -> None:
        ticket, _ = self.of.pop(call)
        before = self.breaker.state(self.now)
        self.breaker.on_result(success, ticket, self.now)
        after = self.breaker.state(self.now)
        if call in self.trials:
            self.trials.discard(call)
            assert (after is BreakerState.CLOSED) == (success is True)
        elif call in self.live:
            self.live.discard(call)
            if success is not None:
                self.counted.append((self.now, success))
            # The window reaches back for 9.5 to 10 s: between the two either answer is right.
            answers = {self.tripped(9.5), self.tripped(10.0)} if success is not None else {False}
            assert (after is not BreakerState.CLOSED) in answers
        else:
            assert after is before
        if (before is BreakerState.CLOSED) != (after is BreakerState.CLOSED):
            self.counted.clear()
            self.live.clear()
            self.trials.clear()

    def tripped(self, window_s: float) -> bool:
        seen = [success for at, success in self.counted if at > self.now - window_s]
        return len(seen) >= self.policy.min_calls and seen.count(False) >= self.policy.ratio * len(seen)

    @invariant()
    def allows_is_what_the_next_moment_says(self) -> None:
        assert self.breaker.allows_call(self.now) == (self.breaker.next_trial_at(self.now) <= self.now)

    @invariant()
    def the_next_trial_is_never_further_off_than_the_longest_interval(self) -> None:
        assert self.breaker.next_trial_at(self.now) <= self.now + self.policy.max_open_s

    @invariant()
    def closed_is_never_held_back(self) -> None:
        if self.breaker.state(self.now) is BreakerState.CLOSED:
            assert self.breaker.allows_call(self.now)


TestAnyCalls = AnyCalls.TestCase
TestAnyCalls.settings = examples(50, stateful_step_count=60)
