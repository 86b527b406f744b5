"""What an upstream's health learns from calls, and when waiters must be rejected for it."""

from __future__ import annotations

from math import inf

from paceline.admission.gate import Gate
from paceline.admission.lane import Lane
from paceline.admission.lane_queue import Waiter
from paceline.admission.permit_pool import PermitPool
from paceline.admission.upstream_health import UpstreamHealth
from paceline.model import ONE_REQUEST, Priority, Receipt, Verdict
from paceline.resilience.breaker import Breaker, BreakerPolicy


def gate_with(health: UpstreamHealth) -> Gate:
    return Gate(
        [],
        limit=inf,
        adaptive_limit=inf,
        transit_s=0.05,
        max_pause_s=900.0,
        socket_pool=PermitPool(),
        request_dispatch=lambda: None,
        health=health,
    )


def called(gate: Gate, count: int, now: float, *, deadline: float = inf) -> list[Waiter]:
    flow = gate.open_flow(Lane.ADAPTIVE, Priority.NORMAL, "anonymous", None)
    for _ in range(count):
        gate.offer(Waiter(flow, ONE_REQUEST, Receipt(), deadline), now)
    granted, _ = gate.dispatch(now)
    for waiter in granted:
        gate.mark_written(waiter, now)
    return granted


def test_only_what_opens_the_breaker_and_trials_that_leave_it_open_have_news_for_those_who_wait():
    """Each asks everybody who waits: for all that was in flight it would be calls times waiters."""
    gate = gate_with(UpstreamHealth(Breaker(BreakerPolicy(min_calls=5)), None))
    news = []
    for waiter in called(gate, 20, 1.0):
        gate.settle(waiter, Verdict.TRANSIENT, 1.1, healthy=False)
        news.append(gate.breaker_changed)
    assert news == [False] * 4 + [True] + [False] * 15
    (trial,) = called(gate, 1, 3.0)
    gate.settle(trial, Verdict.TRANSIENT, 3.1, healthy=False)
    assert gate.breaker_changed


def test_a_reset_forgets_the_trials_that_were_cut_off():
    health = UpstreamHealth(Breaker(BreakerPolicy(min_calls=1)), None)
    gate = gate_with(health)

    def spare_s() -> float:
        """How much longer than to the next trial a call must be able to wait."""
        flow = gate.open_flow(Lane.ADAPTIVE, Priority.NORMAL, "anonymous", None)
        until = health.blocked_until(1.1)
        tenths = range(1, 100)
        may_wait = (n for n in tenths if not health.breaker_wait_s(Waiter(flow, {}, Receipt(), until + n / 10), 1.1))
        return next(may_wait) / 10

    def fail() -> None:
        (waiter,) = called(gate, 1, 1.0)
        gate.settle(waiter, Verdict.TRANSIENT, 1.1, healthy=False)

    fail()
    before = spare_s()
    (trial,) = called(gate, 1, 3.0, deadline=4.0)
    gate.settle(trial, Verdict.IGNORED, 4.0)
    assert spare_s() > before
    gate.reset_learned(4.0)
    fail()
    assert spare_s() == before


def test_a_plan_starts_from_when_the_upstream_last_answered():
    """Else calls that a plan sees cut off before any is answered would open its breaker: an outage that is none."""
    health = UpstreamHealth(Breaker(BreakerPolicy(min_calls=1)), None)
    gate = gate_with(health)
    (first,) = called(gate, 1, 1.0)
    gate.settle(first, Verdict.SUCCESS, 2.0, answered_at=2.0, healthy=True)
    (trial,) = called(gate, 1, 2.0)
    gate.settle(trial, Verdict.TRANSIENT, 2.1, healthy=False)
    fork = health.copy()
    assert isinstance(fork, UpstreamHealth)
    assert vars(fork).keys() == vars(health).keys()
    assert (fork.mean_success_latency_s, fork._last_answered_at, fork._success_latencies_s) == (
        1.0,
        2.0,
        health._success_latencies_s,
    )
    assert fork._success_latencies_s is not health._success_latencies_s
