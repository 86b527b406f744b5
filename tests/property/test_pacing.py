"""A strict sliding-window upstream never refuses, and little of its rate is left unused: in simulated time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.model import Rate
from support.gate_simulation import GateSimulation, StrictUpstream
from support.hypothesis_profiles import examples
from tools.sliding_window import max_within


def drained(simulation: GateSimulation, items: int, cost: dict[str, float] | None = None) -> float:
    """Offer everything at once, run to the end, and return the share of the rate that was used."""
    flow = simulation.open_flow()
    for _ in range(items):
        simulation.offer(flow, cost or {"requests": 1.0})
    simulation.run()
    assert simulation.settled_count == items
    rate = simulation.upstream.rates[0]
    took = simulation.written[-1] - simulation.written[0]
    return (items - 1) * (rate.per_s / rate.limit) / took if took else 1.0


@pytest.mark.parametrize("per_second", [5, 50, 500, 2000])
@pytest.mark.parametrize(
    ("jitter_s", "least_used", "most_refused"), [(0.0, 0.99, 0), (0.005, 0.99, 0), (0.02, 0.97, 0)]
)
def test_drains_at_the_rate_and_is_never_refused(
    per_second: int, jitter_s: float, least_used: float, most_refused: int
) -> None:
    draw = random.Random(per_second)
    simulation = GateSimulation(
        [Rate(per_second, 1.0, 1)],
        request_delay=lambda: 0.0002 + draw.uniform(0, jitter_s),
        response_delay=lambda: 0.0002 + draw.uniform(0, jitter_s),
        timer_delay=lambda: draw.uniform(0.0001, 0.0015),
    )
    used = drained(simulation, min(8_000, per_second * 20))
    assert simulation.upstream.refused <= most_refused
    assert used >= least_used


@pytest.mark.parametrize(
    ("rate", "slow", "least_used"),
    [(Rate(50, 1.0, 1), (0.1, 0.8), 0.94), (Rate(3000, 60.0, 1), (2.0, 20.0), 0.99)],
)
def test_slow_answers_do_not_hold_their_tokens(rate: Rate, slow: tuple[float, float], least_used: float) -> None:
    draw = random.Random(1)
    simulation = GateSimulation(
        [rate],
        request_delay=lambda: draw.uniform(0.0005, 0.01),
        response_delay=lambda: draw.uniform(0.0005, 0.01),
        service_delay=lambda: draw.uniform(*slow),
    )
    used = drained(simulation, 6_000)
    assert simulation.upstream.refused == 0
    assert used >= least_used


def test_the_simulated_upstream_does_refuse_plain_gcra() -> None:
    """The ruler is not bent: an even beat with jitter, and no exact rule, is refused."""
    draw = random.Random(2)
    upstream = StrictUpstream([Rate(500, 1.0, 1)])
    arrivals = sorted(n / 500 + draw.uniform(0, 0.005) for n in range(5_000))
    for moment in arrivals:
        upstream.arrive(moment, {"requests": 1.0})
    assert upstream.refused > 10


@examples(20)
@given(
    limit=st.integers(1, 40),
    per_s=st.sampled_from([0.5, 1.0, 7.0]),
    burst=st.integers(1, 40),
    second=st.one_of(st.none(), st.tuples(st.integers(5, 200), st.sampled_from([3.0, 10.0, 60.0]))),
    costs=st.lists(st.integers(1, 5), min_size=1, max_size=60),
    jitter_s=st.sampled_from([0.0, 0.004, 0.02]),
    cap=st.sampled_from([1, 3, float("inf")]),
    seed=st.integers(0, 2**16),
)
def test_no_stretch_of_a_window_sees_more_than_its_limit(
    limit: int,
    per_s: float,
    burst: int,
    second: tuple[int, float] | None,
    costs: list[int],
    jitter_s: float,
    cap: float,
    seed: int,
) -> None:
    draw = random.Random(seed)
    rates = [Rate(limit, per_s, min(burst, limit))]
    if second is not None:
        rates.append(Rate(second[0], second[1], second[0]))
    simulation = GateSimulation(
        rates,
        limit=cap,
        request_delay=lambda: draw.uniform(0, jitter_s),
        response_delay=lambda: draw.uniform(0, jitter_s),
        write_delay=lambda: draw.uniform(0, 0.002),
        timer_delay=lambda: draw.uniform(0, 0.003),
    )
    flow = simulation.open_flow()
    payable = [
        cost for cost in costs if simulation.gate.budgets.unpayable_reason({"requests": float(cost)}, None) is None
    ]
    for cost in payable:
        simulation.schedule(
            simulation.now + draw.uniform(0, 2.0),
            lambda cost=cost: simulation.offer(flow, {"requests": float(cost)}) and None,
        )
    simulation.run()
    assert simulation.upstream.refused == 0
    assert simulation.settled_count == len(payable)
    assert simulation.gate.in_flight == simulation.gate.queued == 0
    assert simulation.max_in_flight <= cap


@examples(15)
@given(
    limit=st.integers(2, 100),
    burst=st.integers(1, 100),
    seed=st.integers(0, 2**16),
    items=st.integers(10, 300),
)
def test_no_shorter_stretch_sees_more_than_burst_and_rate(limit: int, burst: int, seed: int, items: int) -> None:
    draw = random.Random(seed)
    rate = Rate(limit, 1.0, min(burst, limit))
    simulation = GateSimulation([rate], request_delay=lambda: 0.001, response_delay=lambda: draw.uniform(0, 0.1))
    flow = simulation.open_flow()
    for _ in range(items):
        simulation.schedule(
            simulation.now + draw.choice([0.0, 0.0, draw.uniform(0, 3.0)]), lambda: simulation.offer(flow) and None
        )
    simulation.run()
    for stretch_s in (0.01, 0.1, 0.3, 0.7, 1.0):
        assert max_within(simulation.written, stretch_s) <= rate.burst + rate.per_second * stretch_s + 1


def test_an_idle_time_saves_up_no_credit_beyond_the_burst() -> None:
    simulation = GateSimulation([Rate(10, 1.0, 2)])
    flow = simulation.open_flow()
    simulation.offer(flow)
    simulation.run()
    simulation.run(until=simulation.now + 60)
    before = len(simulation.written)
    for _ in range(6):
        simulation.offer(flow)
    simulation.run(until=simulation.now + 0.15)
    assert len(simulation.written) - before == 3  # the burst of two, and one beat


def test_a_late_timer_loses_no_capacity() -> None:
    simulation = GateSimulation([Rate(100, 1.0, 1)], timer_delay=lambda: 0.008)
    assert drained(simulation, 1_000) >= 0.985


def test_a_long_stall_is_not_written_as_one_burst() -> None:
    simulation = GateSimulation([Rate(100, 10.0, 1)], timer_delay=lambda: 5.0 if len(simulation.written) == 20 else 0.0)
    drained(simulation, 60)
    assert max_within(simulation.written, 0.05) <= 3


def test_a_million_a_day_keeps_a_bounded_log() -> None:
    simulation = GateSimulation([Rate(1_000_000, 86_400.0, 1_000_000)])
    flow = simulation.open_flow()
    for _ in range(6_000):
        simulation.offer(flow)
        simulation.run(until=simulation.now + 14)
    window = simulation.gate.budgets.snapshot()[0].windows[0]
    assert len(window._expiry_heap) < 5_000
    assert window.remaining(simulation.now, 0.05) == 1_000_000 - 6_000
    simulation.run(until=simulation.now + 86_500)
    assert window.remaining(simulation.now, 0.05) == 1_000_000
