"""The floor of the round trip: nothing without samples, never above the truth, and it forgets."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.rate.round_trip import RoundTripFloor


def test_with_fewer_than_256_samples_there_is_no_floor():
    floor = RoundTripFloor()
    for number in range(255):
        floor.add(0.1, float(number))
        assert floor.floor_s == 0.0
    floor.add(0.1, 256.0)
    assert floor.floor_s == pytest.approx(0.1)


def test_it_is_the_least_less_four_times_what_chance_may_have_added():
    floor = RoundTripFloor()
    samples = [0.1 + 0.001 * (number % 32) for number in range(256)]
    for number, sample in enumerate(samples):
        floor.add(sample, number / 100)
    mean = sum(samples) / 256
    assert floor.floor_s == pytest.approx(0.1 - 4 * (mean - 0.1) / 256)


@given(st.floats(0.0005, 0.5), st.floats(0.0001, 0.05), st.integers(0, 2**32))
def test_with_an_exponential_tail_it_is_hardly_ever_above_the_true_floor(true_s: float, tail_s: float, seed: int):
    """Four times over, by e^-4: about two in a hundred end above it, and then by a sliver."""
    chance = random.Random(seed)
    floor = RoundTripFloor()
    for number in range(2560):
        floor.add(true_s + chance.expovariate(1 / tail_s), number / 100)
    assert 0.0 <= floor.floor_s <= true_s + 12 * tail_s / 2560


def test_a_spread_wider_than_the_least_gives_no_floor_rather_than_a_negative_one():
    floor = RoundTripFloor()
    for number in range(256):
        floor.add(0.0001 if number == 0 else 10.0, float(number))
    assert floor.floor_s == 0.0


def test_an_old_floor_is_forgotten_after_two_epochs():
    floor = RoundTripFloor()
    for number in range(300):
        floor.add(0.010, number * 0.01)
    assert floor.floor_s == pytest.approx(0.010)
    for number in range(4000):
        floor.add(0.200, 3.0 + number * 0.01)
    assert floor.floor_s == pytest.approx(0.200)


def test_a_lower_round_trip_counts_at_once():
    floor = RoundTripFloor()
    for number in range(300):
        floor.add(0.2, number * 0.01)
    floor.add(0.05, 3.0)
    assert floor.floor_s < 0.05
