"""The adaptive limit against upstreams of every kind: neither a queue nor an upstream that is strangled."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.resilience.adaptive_limit import AdaptiveLimit
from support.limit_scenarios import CHANGES, OTHERS, TWELVE, UNBOUNDED, Figures, Scenario

SEEDS = [1, 2, 3]


def named(scenarios: list[Scenario], *names: str) -> list[Scenario]:
    found = [scenario for scenario in scenarios if scenario.name in names]
    assert len(found) == len(names)
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scenario", TWELVE[:3], ids=lambda scenario: scenario.name)
def test_twelve_slots_are_used_and_nothing_queues(scenario: Scenario, seed: int) -> None:
    figures = Figures.of(scenario, seed)
    assert figures.share >= 0.9
    assert figures.latency <= 1.5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "scenario",
    named(CHANGES, "24 slots, then 12", "12 slots, then 24", "12 slots, then 6", "12 slots, then 24, lognormal"),
    ids=lambda scenario: scenario.name,
)
def test_capacity_that_halves_or_doubles_is_followed_within_ten_seconds(scenario: Scenario, seed: int) -> None:
    assert Figures.of(scenario, seed).followed_s <= 10


@pytest.mark.parametrize(
    "scenario",
    [
        *named(OTHERS, "1 slot, even 20 ms"),
        *named(
            UNBOUNDED,
            "uniform 5 to 30 s",
            "5 ms, one in ten 200 ms",
            "slow start, 420 ms to 20 ms",
            "100 slots, pauses of 0.4 s every 3 s",
        ),
    ],
    ids=lambda scenario: scenario.name,
)
def test_an_upstream_that_is_slow_uneven_or_pauses_is_not_strangled(scenario: Scenario) -> None:
    assert Figures.of(scenario, 1).share >= 0.9


def test_what_is_not_used_does_not_grow() -> None:
    limit = AdaptiveLimit(1, 20, 200)
    for tick in range(20_000):
        limit.sample(0.02, 3, tick / 100)
    assert limit.limit <= 26


def test_overload_without_an_answer_lowers_it_once_a_round() -> None:
    limit = AdaptiveLimit(1, 100, 200)
    for _ in range(40):
        limit.sample(1.0, 100, 10.0, dropped=True)
    once = limit.limit
    assert 60 <= once <= 80
    for _ in range(40):
        limit.sample(1.0, once, 10.5, dropped=True)  # sent before the cut
    assert limit.limit == once


@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(
        st.tuples(st.floats(0, 1e4), st.integers(1, 300), st.floats(0, 5), st.booleans()), min_size=1, max_size=300
    ),
    least=st.integers(1, 5),
    most=st.integers(5, 60),
)
def test_whatever_is_sampled_it_stays_within_its_bounds(
    samples: list[tuple[float, int, float, bool]], least: int, most: int
) -> None:
    limit, now = AdaptiveLimit(least, 5, most), 0.0
    for latency_s, in_flight, after_s, dropped in samples:
        now += after_s
        limit.sample(latency_s, in_flight, now, dropped)
        assert least <= limit.limit <= most
    limit.retune(1, 1, 2, now)
    assert 1 <= limit.limit <= 2
    limit.reset()
    assert limit.limit == 1
    assert now < inf
