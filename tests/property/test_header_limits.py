"""Rate headers bind: the smaller of the own count and what they advertise, and never more than declared."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.admission.lane import Lane
from paceline.admission.lane_queue import Waiter
from paceline.model import Priority, Rate, Verdict
from paceline.rate.header_limits import HeaderLimits
from paceline.rate.rate_info import RateInfo, RateWindowInfo
from paceline.rate.usage import UsageCounters
from support.gate_simulation import FixedWindowUpstream, GateSimulation, StrictUpstream
from support.hypothesis_profiles import examples
from tools.sliding_window import max_within


def told(
    remaining: float | None = None,
    reset_s: float | None = 10.0,
    *,
    limit: float | None = 100.0,
    per_s: float | None = None,
    unit: str = "requests",
    refills: bool = False,
    whole_seconds: bool = False,
) -> RateInfo:
    window = RateWindowInfo("w", unit, limit, remaining, reset_s, per_s, whole_seconds=whole_seconds, refills=refills)
    return RateInfo("test", windows=(window,))


def quiet(rates: list[Rate] | None = None) -> GateSimulation:
    """A simulation whose grants are written and answered by the test alone."""
    return GateSimulation(rates or [], write_delay=lambda: 1e9)


def answer(simulation: GateSimulation, waiter: Waiter, info: RateInfo | None) -> None:
    if waiter.written_at is None:
        simulation.gate.mark_written(waiter, simulation.now)
    simulation.gate.settle(waiter, Verdict.SUCCESS, simulation.now, answered_at=simulation.now, rate_info=info)
    simulation.dispatch()


def granted(waiters: list[Waiter]) -> int:
    return sum(waiter.granted_at is not None for waiter in waiters)


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_limit_known_only_from_headers_is_hardly_ever_overrun(seed: int, length: bool) -> None:
    draw = random.Random(seed)
    rate = Rate(200, 10.0, 200)
    upstream = FixedWindowUpstream(rate)
    simulation = GateSimulation(
        [],
        adaptive_limit=20,
        upstream=upstream,
        request_delay=lambda: draw.uniform(0.005, 0.03),
        response_delay=lambda: draw.uniform(0.005, 0.03),
    )
    simulation.rate_info_for = lambda taken: upstream.rate_info(simulation.now, include_window=length)
    flow = simulation.open_flow()
    for _ in range(2_000):
        simulation.offer(flow)
    simulation.run()
    assert upstream.refused <= 0.01 * 2_000
    assert upstream.arrivals[-1] - upstream.arrivals[0] <= 1.25 * 2_000 / rate.per_second


def test_usable_is_what_remained_less_what_was_written_since() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    first = simulation.offer(flow)
    simulation.gate.mark_written(first, simulation.now)
    later = [simulation.offer(flow) for _ in range(3)]
    for waiter in later:
        simulation.gate.mark_written(waiter, simulation.now)
    answer(simulation, first, told(10))
    assert granted([simulation.offer(flow) for _ in range(20)]) == 7


def test_what_is_granted_but_not_yet_written_counts_too() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    first = simulation.offer(flow)
    for _ in range(4):
        simulation.offer(flow)
    answer(simulation, first, told(10))
    assert granted([simulation.offer(flow) for _ in range(20)]) == 6


def test_an_older_answer_never_raises_what_is_usable() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    older, newer = simulation.offer(flow), simulation.offer(flow)
    simulation.gate.mark_written(older, simulation.now)
    simulation.now += 0.01
    simulation.gate.mark_written(newer, simulation.now)
    answer(simulation, newer, told(2))
    answer(simulation, older, told(50))
    assert granted([simulation.offer(flow) for _ in range(20)]) == 2


def test_an_older_answer_that_tells_of_less_is_believed() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    older, newer = simulation.offer(flow), simulation.offer(flow)
    simulation.gate.mark_written(older, simulation.now)
    simulation.now += 0.01
    simulation.gate.mark_written(newer, simulation.now)
    answer(simulation, newer, told(50))
    answer(simulation, older, told(3))
    assert granted([simulation.offer(flow) for _ in range(20)]) == 2  # one of the three was the newer call's own


def test_what_is_told_never_loosens_what_is_declared() -> None:
    simulation = quiet([Rate(2, 10.0, 2)])
    flow = simulation.open_flow()
    answer(simulation, simulation.offer(flow), told(1_000, limit=1_000.0, per_s=1.0))
    assert granted([simulation.offer(flow) for _ in range(10)]) == 1


def test_at_the_reset_the_whole_limit_is_there_again_and_a_whole_second_is_waited_for() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    answer(simulation, simulation.offer(flow), told(0, 5.0, whole_seconds=True))
    waiter = simulation.offer(flow)
    simulation.run(until=simulation.now + 5.9)
    assert waiter.granted_at is None
    simulation.run(until=simulation.now + 0.2)
    assert waiter.granted_at == pytest.approx(106.0)
    assert waiter.receipt.rate_wait_s == pytest.approx(6.0)


def test_what_refills_steadily_is_not_waited_for_until_it_is_full() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    answer(simulation, simulation.offer(flow), told(0, 10.0, limit=100.0, refills=True))
    waiter = simulation.offer(simulation.open_flow(Priority.INTERACTIVE), {"requests": 5.0})
    simulation.run(until=simulation.now + 5)
    assert waiter.granted_at == pytest.approx(100.5)


def test_a_tenth_is_kept_for_interactive_calls_when_what_remains_does_not_cover_the_queue() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    answer(simulation, simulation.offer(flow), told(30, 60.0, limit=100.0))
    simulation.gate.paused = True
    waiters = [simulation.offer(flow) for _ in range(100)]
    simulation.gate.paused = False
    simulation.dispatch()
    assert granted(waiters) == 30 - 10
    assert granted([simulation.offer(simulation.open_flow(Priority.INTERACTIVE)) for _ in range(20)]) == 10


def test_what_remains_is_spent_freely_while_it_covers_the_queue() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    answer(simulation, simulation.offer(flow), told(30, 60.0, limit=100.0))
    assert granted([simulation.offer(flow) for _ in range(30)]) == 30


def test_what_was_told_binds_the_adaptive_lane_only() -> None:
    simulation = quiet()
    answer(simulation, simulation.offer(simulation.open_flow(lane=Lane.CLASSIC)), told(0))
    assert simulation.offer(simulation.open_flow(lane=Lane.CLASSIC)).granted_at == simulation.now
    assert simulation.offer(simulation.open_flow(lane=Lane.ADAPTIVE)).granted_at is None


def test_tokens_and_requests_are_kept_apart_and_the_tightest_binds() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    info = RateInfo(
        "openai",
        windows=(
            RateWindowInfo("requests", "requests", 100.0, 50.0, 60.0),
            RateWindowInfo("tokens", "tokens", 10_000.0, 2_500.0, 60.0),
        ),
    )
    answer(simulation, simulation.offer(flow, {"requests": 1.0, "tokens": 1_000.0}), info)
    waiters = [
        simulation.offer(simulation.open_flow(Priority.INTERACTIVE), {"requests": 1.0, "tokens": 1_000.0})
        for _ in range(5)
    ]
    assert granted(waiters) == 2


def test_a_limit_learned_from_a_policy_is_kept_by_our_own_count() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    answer(simulation, simulation.offer(flow), told(None, None, limit=5.0, per_s=10.0))
    waiters = [simulation.offer(flow) for _ in range(10)]
    assert granted(waiters) == 4


def test_nobody_waits_for_ever_for_a_limit_below_his_cost() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    answer(simulation, simulation.offer(flow), told(0, 3.0, limit=5.0, per_s=10.0))
    waiter = simulation.offer(flow, {"requests": 20.0})
    simulation.run(until=simulation.now + 30)
    assert waiter.granted_at is not None


def test_a_reset_forgets_what_was_told() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    answer(simulation, simulation.offer(flow), told(0, 3600.0))
    waiter = simulation.offer(flow)
    simulation.gate.reset_learned(simulation.now)
    simulation.dispatch()
    assert waiter.granted_at == simulation.now


def test_a_declared_window_and_headers_together_still_are_never_refused() -> None:
    draw = random.Random(3)
    rate = Rate(50, 1.0, 1)
    strict = StrictUpstream([rate])
    simulation = GateSimulation(
        [rate],
        upstream=strict,
        request_delay=lambda: draw.uniform(0, 0.005),
        response_delay=lambda: draw.uniform(0, 0.005),
    )
    simulation.rate_info_for = lambda taken: told(50.0 - max_within(strict.arrivals[-50:], 1.0), 1.0, limit=50.0)
    flow = simulation.open_flow()
    for _ in range(500):
        simulation.offer(flow)
    simulation.run()
    assert strict.refused == 0


@examples(35)
@given(
    answers=st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(0, 1e9)),
            st.one_of(st.none(), st.floats(0, 900)),
            st.one_of(st.none(), st.floats(0.001, 1e9)),
            st.one_of(st.none(), st.floats(0.001, 1e6)),
            st.booleans(),
            st.text(max_size=3),
        ),
        max_size=40,
    ),
    cost=st.floats(0.1, 100),
)
def test_whatever_is_told_somebody_may_go_again_some_time(
    answers: list[tuple[float | None, float | None, float | None, float | None, bool, str]], cost: float
) -> None:
    feedback, spending = HeaderLimits(), UsageCounters()
    now = 1_000.0
    for remaining, reset_s, limit, per_s, refills, name in answers:
        window = RateWindowInfo(name, "requests", limit, remaining, reset_s, per_s, refills=refills)
        feedback.apply(RateInfo("x", windows=(window,)), spending, now, {}, now)
        now += 0.1
    for _ in range(60):
        due = feedback.due_at({"requests": cost}, Priority.BULK, {"requests": 1e12}, spending, now)
        if due <= now:
            break
        assert due <= now + 1e6 + 1
        now = due + 1e-6
    else:
        raise AssertionError("held for ever")


def test_a_reset_that_was_cut_is_tried_with_one_call_and_not_with_the_whole_limit() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    answer(simulation, simulation.offer(flow), told(0, 86_400.0))
    waiters = [simulation.offer(flow) for _ in range(5)]
    simulation.run(until=simulation.now + 899)
    assert granted(waiters) == 0
    simulation.run(until=simulation.now + 2)
    assert granted(waiters) == 1


def test_the_call_that_tries_a_cut_reset_may_cost_more_than_one() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    answer(simulation, simulation.offer(flow), told(0, 86_400.0, unit="tokens", limit=50_000.0))
    waiters = [simulation.offer(flow, {"requests": 1.0, "tokens": 1_200.0}) for _ in range(5)]
    simulation.run(until=simulation.now + 901)
    assert granted(waiters) == 1


@pytest.mark.parametrize("per_s", [None, 86_400.0])
def test_what_is_left_of_a_window_whose_reset_is_far_stays_there(per_s: float | None) -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    answer(simulation, simulation.offer(flow), told(20, 86_400.0 if per_s is None else None, per_s=per_s))
    simulation.run(until=simulation.now + 1_000)
    assert granted([simulation.offer(flow) for _ in range(30)]) == 20


def test_a_length_without_a_reset_holds_nobody_longer_than_the_ceiling() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    answer(simulation, simulation.offer(flow), told(0, None, per_s=86_400.0))
    waiters = [simulation.offer(flow) for _ in range(5)]
    simulation.run(until=simulation.now + 901)
    assert granted(waiters) == 1


def test_a_hostile_length_holds_nobody_longer_than_the_ceiling() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    answer(simulation, simulation.offer(flow), told(None, None, limit=1.0, per_s=86_400.0))
    assert simulation.offer(flow).granted_at == simulation.now


def test_units_that_nobody_counts_and_nobody_holds_are_forgotten() -> None:
    simulation = quiet()
    flow = simulation.open_flow()
    answer(simulation, simulation.offer(flow, {"requests": 1.0, "tokens": 7.0}), told(100, unit="tokens"))
    for n in range(2_000):
        waiter = simulation.offer(flow, {"requests": 1.0, "tokens": 0.01, f"unit{n}": 0.1})
        answer(simulation, waiter, None)
    budget = flow.lane_queue.budget
    assert len(budget.usage.written) <= 65
    assert budget.usage.written["tokens"] == pytest.approx(27)
    assert budget.queued_amounts == flow.backlog == {}
    simulation.offer(flow, {"tokens": 80.0})
    assert not simulation.offer(flow, {"tokens": 1.0}).granted_at
