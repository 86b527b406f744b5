from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.demo.limits import (
    MODES,
    ArrivalLimit,
    FixedWindowLimit,
    LimitSet,
    OtherClients,
    SlidingWindowLimit,
    TokenBucketLimit,
)


def sliding(limit: int, per_s: float = 1.0, *, count_refused: bool = False) -> LimitSet:
    return LimitSet([("requests", SlidingWindowLimit(limit, per_s))], count_refused=count_refused)


def one(limit: ArrivalLimit) -> LimitSet:
    return LimitSet([("requests", limit)])


def test_a_window_allows_its_limit_and_refuses_the_next() -> None:
    window = sliding(3)
    assert [window.try_admit(0.0) for _ in range(4)] == [True, True, True, False]


def test_an_arrival_leaves_the_window_exactly_one_period_later() -> None:
    window = sliding(1)
    assert window.try_admit(5.0)
    assert not window.try_admit(5.999)
    assert window.try_admit(6.0)


def test_a_refused_arrival_counts_only_if_asked() -> None:
    lenient, strict = sliding(1), sliding(1, count_refused=True)
    for window in (lenient, strict):
        assert window.try_admit(0.0)
        assert not window.try_admit(0.9)
    assert lenient.try_admit(1.0)
    assert not strict.try_admit(1.0)


def test_the_wait_is_told_to_the_moment() -> None:
    window = sliding(2)
    assert window.wait_s(0.0) == 0.0
    window.try_admit(0.0)
    window.try_admit(0.25)
    assert window.wait_s(0.5) == 0.5
    assert window.try_admit(0.5 + window.wait_s(0.5))


def test_the_wait_after_counted_refusals_is_until_enough_of_them_left() -> None:
    window = sliding(1, count_refused=True)
    for moment in (0.0, 0.25, 0.5):
        window.try_admit(moment)
    assert window.wait_s(0.75) == 0.75
    assert not window.try_admit(1.49)


@given(
    limit=st.integers(1, 5),
    gaps=st.lists(st.integers(0, 40), max_size=60),
    count_refused=st.booleans(),
)
def test_no_stretch_of_a_period_ever_lets_more_than_the_limit_through(
    limit: int, gaps: list[int], count_refused: bool
) -> None:
    window = sliding(limit, 64.0, count_refused=count_refused)
    now = 0.0
    accepted: list[float] = []
    for gap in gaps:
        now += gap
        if window.try_admit(now):
            accepted.append(now)
    for first, over in zip(accepted, accepted[limit:], strict=False):
        assert over - first >= 64.0


def test_a_fixed_window_allows_twice_its_limit_around_its_end() -> None:
    windows = one(FixedWindowLimit(2, 1.0))
    assert [windows.try_admit(moment) for moment in (0.8, 0.9, 0.95, 1.0, 1.1, 1.9)] == [
        True, True, False, True, True, False,
    ]  # fmt: skip
    assert windows.wait_s(1.75) == 0.25


def test_a_bucket_gains_its_rate_and_holds_its_burst() -> None:
    bucket = one(TokenBucketLimit(10, 1.0, 2))
    assert [bucket.try_admit(moment) for moment in (0.0, 0.0, 0.0, 0.125, 0.125)] == [True, True, False, True, False]
    assert bucket.wait_s(0.125) == pytest.approx(0.075)
    assert [bucket.try_admit(9.0) for _ in range(3)] == [True, True, False]


def test_an_arrival_refused_by_one_limit_is_counted_in_none() -> None:
    counter = LimitSet([("requests", SlidingWindowLimit(2, 1.0)), ("tokens", SlidingWindowLimit(100, 1.0))])
    heavy, light = {"requests": 1.0, "tokens": 80.0}, {"requests": 1.0, "tokens": 20.0}
    assert [counter.try_admit(0.0, cost) for cost in (heavy, heavy, light, light)] == [True, False, True, False]


def test_a_change_of_limit_keeps_what_was_counted() -> None:
    limit = SlidingWindowLimit(2, 1.0)
    counter = one(limit)
    assert [counter.try_admit(0.0) for _ in range(3)] == [True, True, False]
    limit.limit = 3
    assert [counter.try_admit(0.5) for _ in range(2)] == [True, False]
    limit.limit = 1
    assert not counter.try_admit(1.25)
    assert counter.try_admit(1.5)


@pytest.mark.parametrize("mode", MODES)
def test_others_take_their_share_whenever_they_are_looked_at(mode: str) -> None:
    counter, others = one(MODES[mode](1000, 1.0)), OtherClients(Random(1))
    for moment in (0.0, 0.1, 5.0, 10.0):
        others.advance_to(moment, 300.0, counter)
    assert others.accepted + others.refused == pytest.approx(3000, rel=0.02)
    assert others.refused == 0


def test_others_who_left_no_longer_come() -> None:
    counter, others = sliding(10), OtherClients(Random(1))
    others.advance_to(0.0, 5.0, counter)
    others.advance_to(1.0, 0.0, counter)
    others.advance_to(100.0, 5.0, counter)
    assert others.accepted <= 2
