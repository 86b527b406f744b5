"""The adaptive limit against upstreams of every kind, in simulated time: near all they give, little of their queue."""

from __future__ import annotations

import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.resilience.adaptive_limit import AdaptiveLimit
from support.limit_scenarios import (
    CAPACITY_CHANGES,
    OTHER_SIZES,
    TWELVE_SLOTS,
    UNLIMITED_SLOTS,
    RunFigures,
    Scenario,
    even,
    exponential,
)
from support.queueing_model import QueueingServer, simulate

SEEDS = (1, *(pytest.param(seed, marks=pytest.mark.verify) for seed in (2, 3)))
UNEVEN = [scenario for scenario in TWELVE_SLOTS if "exponential" in scenario.name or "one in ten" in scenario.name]
EVEN = [scenario for scenario in TWELVE_SLOTS if scenario not in UNEVEN]


def named(scenario: Scenario) -> str:
    return scenario.name


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scenario", EVEN, ids=named)
def test_twelve_slots_are_kept_busy_and_hardly_queued_at(scenario: Scenario, seed: int) -> None:
    figures = RunFigures.of(scenario, seed)
    assert figures.share >= 0.94
    assert figures.latency <= 1.3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scenario", UNEVEN, ids=named)
def test_they_still_are_where_service_times_differ_widely(scenario: Scenario, seed: int) -> None:
    figures = RunFigures.of(scenario, seed)
    assert figures.share >= 0.88
    assert figures.latency <= 1.4


@pytest.mark.parametrize("seed", SEEDS)
def test_chance_does_not_make_it_wander(seed: int) -> None:
    scenario = Scenario("12 slots, exponential 20 ms, for long", 12, exponential(0.02), until=90)
    run = scenario.run(AdaptiveLimit(), seed)
    assert run.lowest_limit(20.0) >= 9


@pytest.mark.parametrize("scenario", OTHER_SIZES, ids=named)
def test_so_are_one_slot_and_a_hundred_quick_ones_and_slow_ones(scenario: Scenario) -> None:
    figures = RunFigures.of(scenario, 1)
    assert figures.share >= 0.92
    assert figures.latency <= 1.25


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scenario", CAPACITY_CHANGES, ids=named)
def test_a_capacity_that_changes_is_followed_within_ten_seconds(scenario: Scenario, seed: int) -> None:
    figures = RunFigures.of(scenario, seed)
    assert figures.settling_time_s <= 10.0
    assert figures.share >= 0.93
    assert figures.latency <= 1.4


@pytest.mark.parametrize("seed", [2, pytest.param(3, marks=pytest.mark.verify)])
@pytest.mark.parametrize("scenario", UNLIMITED_SLOTS, ids=named)
def test_an_upstream_that_is_slow_or_uneven_of_itself_is_not_strangled(scenario: Scenario, seed: int) -> None:
    figures = RunFigures.of(scenario, seed)
    assert figures.lowest_limit >= 18, "it fell below where it began, with nothing to be gained"
    assert figures.share >= 0.8


def test_what_is_not_used_does_not_grow() -> None:
    draw = random.Random(1)
    limit = AdaptiveLimit(1, 20, 200)
    run = simulate(limit, QueueingServer(inf, even(0.02)(draw)), 20, demand=lambda now: 6)
    assert {answer.limit for answer in run.completions} == {20, 25}, "its two levels are those it began with"


def test_demand_that_differs_but_stays_below_half_of_it_grows_it_no_more() -> None:
    draw = random.Random(1)
    limit = AdaptiveLimit(1, 20, 200)
    run = simulate(limit, QueueingServer(inf, even(0.02)(draw)), 20, demand=lambda now: draw.randint(1, 9))
    assert {answer.limit for answer in run.completions} == {20, 25}


def test_it_grows_to_twice_what_is_used_at_most() -> None:
    draw = random.Random(1)
    limit = AdaptiveLimit(1, 20, 200)
    run = simulate(limit, QueueingServer(inf, even(0.02)(draw)), 20, demand=lambda now: 30)
    assert max(answer.limit for answer in run.completions) <= 2 * 30 * 1.5
    assert limit.limit >= 30


def test_bursts_with_idle_time_between_them_do_not_mislead_it() -> None:
    draw = random.Random(1)
    limit = AdaptiveLimit(1, 20, 200)
    run = simulate(limit, QueueingServer(12, even(0.02)(draw)), 60, demand=lambda now: inf if now % 3 < 1 else 0)
    busy = [answer for answer in run.completions if answer.at > 20]
    assert min(answer.limit for answer in busy) >= 9
    assert max(answer.limit for answer in busy) <= 24


def test_timeouts_lower_it_once_for_what_was_in_flight_together() -> None:
    limit = AdaptiveLimit(1, 20, 200)
    for _ in range(20):
        limit.sample(10.0, 20, 10.0, dropped=True)
    assert limit.limit == 14
    for _ in range(14):
        limit.sample(10.0, 14, 20.5, dropped=True)
    assert limit.limit == 10


def test_trials_of_an_upstream_that_is_down_do_not_wear_it_away() -> None:
    limit = AdaptiveLimit(1, 20, 200)
    for number in range(500):
        limit.sample(2.0, 1, 5.0 * number, dropped=True)
    assert limit.limit == 20


def test_a_timeout_in_a_hundred_lowers_nothing() -> None:
    draw = random.Random(1)
    limit = AdaptiveLimit(1, 20, 200)
    now = 0.0
    for number in range(20_000):
        now += 0.001
        limit.sample(0.02 * draw.uniform(0.9, 1.1), limit.limit, now, dropped=number % 100 == 99)
        assert limit.limit >= 20


def test_after_a_black_hole_it_is_back_within_seconds() -> None:
    draw = random.Random(1)
    limit = AdaptiveLimit(1, 20, 200)
    service = even(0.02)(draw)
    simulate(limit, QueueingServer(12, lambda now: 1e9), 31, timeout_s=1.0)
    assert limit.limit == 1
    run = simulate(limit, QueueingServer(12, service), 20)
    assert run.rate(5, 20) >= 0.9 * 12 / 0.02


def test_reset_forgets_and_retune_keeps_within_the_new_bounds() -> None:
    draw = random.Random(1)
    limit = AdaptiveLimit(1, 20, 200)
    simulate(limit, QueueingServer(inf, even(0.02)(draw)), 20)
    assert limit.limit > 100
    limit.retune(1, 20, 50, 20.0)
    assert 35 <= limit.limit <= 50
    limit.reset()
    assert limit.limit == 20


@given(
    bounds=st.tuples(st.integers(1, 50), st.integers(0, 50), st.integers(0, 200)),
    samples=st.lists(
        st.tuples(st.floats(0, 100), st.integers(1, 400), st.floats(0, 60), st.booleans()), min_size=1, max_size=300
    ),
)
def test_whatever_it_is_told_it_stays_within_its_bounds(
    bounds: tuple[int, int, int], samples: list[tuple[float, int, float, bool]]
) -> None:
    least, more, most = bounds[0], bounds[0] + bounds[1], sum(bounds)
    limit = AdaptiveLimit(least, more, most)
    now = 100.0
    for latency_s, in_flight, step_s, dropped in samples:
        now += step_s
        limit.sample(latency_s, in_flight, now, dropped)
        assert least <= limit.limit <= most
