"""An undeclared, unadvertised rate is learned from refusals, against upstreams of every kind, in simulated time."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.admission.lane import Lane
from paceline.admission.lane_queue import Waiter
from paceline.app import Service
from paceline.config import Config
from paceline.model import Cost, Rate, Verdict
from paceline.rate.learner import RateLearner
from paceline.rate.rate_info import RateInfo, RateWindowInfo
from paceline.telemetry.gauges import window_label
from paceline.upstream.snapshot import state_of
from support.gate_simulation import (
    FixedWindowUpstream,
    GateSimulation,
    OtherClient,
    StrictUpstream,
    TokenBucketUpstream,
)
from support.hypothesis_profiles import examples

HUNDRED = Rate(100, 1.0, 10)

KINDS: dict[str, Callable[[Rate], StrictUpstream]] = {
    "sliding": lambda rate: StrictUpstream([rate]),
    "fixed": FixedWindowUpstream,
    "bucket": TokenBucketUpstream,
}
SEEDS = (1, *(pytest.param(seed, marks=pytest.mark.verify) for seed in (2, 3)))


class Study:
    """A queue that never empties, before one upstream that sends bare refusals."""

    def __init__(self, kind: str = "sliding", rate: Rate = HUNDRED, seed: int = 1, in_flight: int = 20) -> None:
        draw = random.Random(seed)
        self.upstream = KINDS[kind](rate)
        self.simulation = GateSimulation(
            [],
            adaptive_limit=in_flight,
            upstream=self.upstream,
            request_delay=lambda: draw.uniform(0.005, 0.015),
            response_delay=lambda: draw.uniform(0.005, 0.015),
            timer_delay=lambda: draw.uniform(0.0001, 0.0015),
        )
        self.simulation.on_response = self._again
        self.began_at = self.simulation.now
        self.refusals: list[float] = []
        self.flow = self.simulation.open_flow()
        for _ in range(200):
            self.simulation.offer(self.flow)

    @property
    def learner(self) -> RateLearner:
        return self.simulation.gate.budgets.snapshot()[0].learner

    def change(self, at: float, limit: float) -> None:
        """From so many seconds on the upstream's limit is another."""

        def act() -> None:
            if isinstance(self.upstream, FixedWindowUpstream | TokenBucketUpstream):
                self.upstream.rate = Rate(limit, 1.0, 10)
            else:
                self.upstream.rates = [Rate(limit, 1.0, 10)]

        self.simulation.schedule(self.began_at + at, act)

    def run(self, until: float) -> None:
        self.simulation.run(until=self.began_at + until)

    def used(self, first: float, last: float) -> float:
        """Accepted a second."""
        return self._within(self.upstream.arrivals, first, last) / (last - first)

    def refused(self, first: float, last: float) -> float:
        """The share of sends that was refused."""
        return self._within(self.refusals, first, last) / self._within(self.simulation.written, first, last)

    def _within(self, moments: list[float], first: float, last: float) -> int:
        return sum(self.began_at + first <= moment < self.began_at + last for moment in moments)

    def _again(self, waiter: Waiter, verdict: Verdict) -> None:
        if verdict is Verdict.THROTTLED:
            assert waiter.written_at is not None
            self.refusals.append(waiter.written_at)
            self.simulation.offer(self.flow, receipt=waiter.receipt)
        else:
            self.simulation.offer(self.flow)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_limit_is_used_and_hardly_overrun(kind: str, seed: int) -> None:
    study = Study(kind, seed=seed)
    study.run(until=60)
    assert study.used(30, 60) >= 0.95 * 100
    assert study.refused(30, 60) <= 0.01


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_another_client_leaves_is_used_and_hardly_overrun(kind: str, seed: int) -> None:
    study = Study(kind, seed=seed)
    other = OtherClient(study.simulation, per_second=30, seed=seed)
    study.run(until=60)
    left = 100 - len([moment for moment in other.arrivals if moment >= study.began_at + 30]) / 30
    assert study.used(30, 60) >= 0.95 * left
    assert study.refused(30, 60) <= 0.01


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("limit", [50, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_that_halves_or_doubles_is_followed_within_half_a_minute(kind: str, limit: int, seed: int) -> None:
    study = Study(kind, seed=seed)
    study.change(30, limit)
    study.run(until=80)
    assert study.used(60, 80) >= 0.95 * limit
    assert study.refused(60, 80) <= 0.01


def test_an_upstream_that_never_throttles_is_not_slowed() -> None:
    simulation = GateSimulation([], request_delay=lambda: 0.01)
    flow = simulation.open_flow()
    for _ in range(5_000):
        simulation.offer(flow)
    assert len(simulation.granted) == 5_000
    simulation.run()
    assert simulation.gate.budgets.snapshot()[0].learner.window is None


def test_a_few_a_minute_are_learned_too() -> None:
    study = Study(rate=Rate(20, 60.0, 20))
    study.run(until=900)
    assert study.used(300, 900) >= 0.9 * 20 / 60
    assert study.refused(300, 900) <= 0.02


def test_nobody_is_held_for_ever_by_a_rate_below_his_cost() -> None:
    study = Study(rate=Rate(20, 60.0, 20))
    study.run(until=300)
    assert study.learner.rate_per_s < 1
    simulation = study.simulation
    while simulation.gate.queued:
        simulation.withdraw(next(simulation.gate.budgets.iter_waiters()))
    simulation.on_response = None
    costly = simulation.offer(study.flow, {"requests": 7.0})
    simulation.run(until=simulation.now + 60)
    assert costly.granted_at is not None


def test_what_was_learned_survives_a_reload_and_is_forgotten_by_a_reset() -> None:
    study = Study()
    study.run(until=10)
    gate, now, learned = study.simulation.gate, study.simulation.now, study.learner.rate_per_s
    gate.budgets.set_declared_times(0.05, 900.0)
    gate.retune([], now)
    assert study.learner.rate_per_s == learned
    gate.reset_learned(now)
    assert study.learner.rate_per_s == inf
    assert study.learner.window is None


def test_a_declared_window_takes_the_place_of_what_was_learned() -> None:
    study = Study()
    study.run(until=10)
    study.simulation.gate.retune([Rate(80, 1.0, 1)], study.simulation.now)
    study.run(until=20)
    assert study.learner.window is None
    assert study.used(12, 20) == pytest.approx(80, rel=0.03)


def test_a_limit_that_headers_tell_takes_the_place_of_what_was_learned() -> None:
    study = Study()
    study.run(until=10)
    told = RateWindowInfo("w", "requests", 60.0, None, None, 1.0)
    study.simulation.rate_info_for = lambda taken: RateInfo("ietf", windows=(told,))
    study.run(until=20)
    assert study.learner.window is None
    assert study.used(12, 20) == pytest.approx(60, rel=0.05)


def test_a_told_wait_is_obeyed_and_the_rate_is_learned_all_the_same() -> None:
    study = Study()
    study.simulation.rate_info_for = lambda taken: None if taken else RateInfo("ietf", retry_after_s=1.0)
    study.run(until=60)
    assert study.used(30, 60) >= 0.85 * 100
    assert study.refused(30, 60) <= 0.01
    waits = [min((w for w in study.simulation.written if w > refused + 0.05), default=inf) - refused
             for refused in study.refusals if refused > study.began_at + 30]  # fmt: skip
    assert waits
    assert min(waits) >= 1.0


async def test_its_state_shows_the_learned_rate_as_a_window_of_a_second() -> None:
    study = Study()
    study.run(until=40)
    service = Service(Config.model_validate({"upstreams": {"api": {"base_url": "https://api.example"}}}))
    upstream = service.registry.get("api")
    upstream.async_gate.gate = study.simulation.gate
    (budget,) = state_of(upstream, study.simulation.now).budgets
    (window,) = budget.windows
    assert (window.source, window.per, window.unit) == ("learned", "1s", "requests")
    assert 95 <= window.limit <= 102
    assert 0 <= window.remaining <= window.limit
    assert budget.rate_limit_per_second == pytest.approx(window.limit, abs=0.001)
    assert window_label(window) == "learned"
    await service.close()


def test_the_classic_lane_feeds_it_and_is_not_bound_by_it() -> None:
    study = Study()
    study.run(until=10)
    simulation = study.simulation
    classic = simulation.open_flow(lane=Lane.CLASSIC)
    simulation.gate.adaptive_limit = inf
    burst = [simulation.offer(classic) for _ in range(50)]
    assert all(waiter.granted_at == simulation.now for waiter in burst)
    study.run(until=40)
    assert study.used(30, 40) >= 0.95 * 100


def test_one_round_trip_of_refusals_cuts_the_rate_once() -> None:
    learner = learned()
    before = learner.rate_per_s
    for tenth in range(30):
        learner.on_written(1.0, 20.0 + tenth / 10)
    answered = [learner.on_throttled(1.0, 22.9, 23.0, 0.0) for _ in range(10)]
    assert 0.97 * before <= learner.rate_per_s < before
    assert all(answered)


def test_a_second_refusal_with_no_success_between_pauses_the_budget() -> None:
    learner = learned()
    assert learner.on_throttled(1.0, 20.0, 20.1, 0.0)
    assert not learner.on_throttled(1.0, 20.2, 20.3, 0.0)


def test_a_refusal_after_a_success_does_not_pause() -> None:
    learner = learned()
    learner.on_throttled(1.0, 20.0, 20.1, 0.0)
    learner.on_accepted(20.2, 20.3)
    assert learner.on_throttled(1.0, 20.4, 20.5, 0.0)


def test_it_climbs_only_while_it_holds_the_queue() -> None:
    learner = learned()
    before = learner.rate_per_s
    moment = 20.0
    for _ in range(1_000):
        moment += 0.1
        learner.take(1.0, moment, rate_bound=False, now=moment)
    assert learner.rate_per_s == before
    for _ in range(1_500):
        moment += 0.1
        learner.take(1.0, moment, rate_bound=True, now=moment)
    assert learner.rate_per_s > 2 * before


def test_a_copy_that_is_run_ahead_keeps_its_rate() -> None:
    study = Study()
    study.run(until=10)
    fork = study.simulation.gate.budgets.snapshot()[0].copy({})
    before = fork.learner.rate_per_s
    for step in range(100):
        fork.learner.take(1.0, study.simulation.now + step, rate_bound=True, now=study.simulation.now + step)
    assert fork.learner.rate_per_s == before
    assert fork.learner.window is not study.learner.window


def learned() -> RateLearner:
    """Ten a second went through for ten seconds, until one was refused; the rate is that or little less."""
    learner = RateLearner()
    for step in range(100):
        learner.on_written(1.0, 10.0 + step / 10)
    learner.on_written(1.0, 19.95)
    assert not learner.on_throttled(1.0, 19.95, 19.96, 0.0)
    learner.on_written(1.0, 19.97)
    assert learner.on_accepted(19.97, 19.98)
    assert 9 <= learner.rate_per_s <= 11
    return learner


@examples(50)
@given(
    calls=st.lists(
        st.tuples(st.sampled_from(["ok", "refused", "named"]), st.floats(0, 30), st.floats(0, 5), st.floats(0.1, 50)),
        max_size=80,
    )
)
def test_whatever_is_answered_the_rate_stays_finite_and_somebody_may_go(
    calls: list[tuple[str, float, float, float]],
) -> None:
    learner, now = RateLearner(), 100.0
    for kind, later_s, took_s, amount in calls:
        now += later_s
        if learner.window is not None:
            learner.take(amount, now, rate_bound=True, now=now)
        learner.on_written(amount, now)
        written_at, now = now, now + took_s
        if kind == "ok":
            learner.on_accepted(written_at, now)
        else:
            learner.on_throttled(amount, written_at, now, 3.0 if kind == "named" else 0.0)
        if learner.window is not None:
            assert 0.05 <= learner.rate_per_s < inf
            assert learner.window.rate.limit >= 1
            assert learner.window.rate.per_second == pytest.approx(learner.rate_per_s)
            assert learner.window.due_at(min(amount, learner.window.rate.limit), now, 0.0) >= -inf


def test_a_cost_counts_for_what_it_is() -> None:
    study = Study()
    simulation = study.simulation
    cost: Cost = {"requests": 4.0}
    while simulation.gate.queued:
        simulation.withdraw(next(simulation.gate.budgets.iter_waiters()))
    simulation.on_response = lambda waiter, verdict: simulation.offer(study.flow, cost) and None
    for _ in range(50):
        simulation.offer(study.flow, cost)
    study.run(until=60)
    assert 4 * study.used(30, 60) >= 0.93 * 100
