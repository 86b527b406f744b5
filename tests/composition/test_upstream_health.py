"""Breaker, retry budget and adaptive limit in the whole pipeline, in virtual time."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from paceline.errors import AttemptTimeout, ConnectFailed, ProtocolError
from paceline.events import Event
from paceline.model import Batch, Item, OutcomeKind, Priority, Request, Response, Strategy
from paceline.upstream.snapshot import state_of
from support.in_memory_upstream import (
    InMemoryUpstream,
    fail_with,
    in_memory_service,
    is_idle,
    items,
    never_respond,
    outcome_codes,
    respond_with,
    run_batch,
)
from support.virtual_clock import virtual_time

KINDS = {
    "refused": fail_with(ConnectFailed, sent=False, after_s=0.001),
    "reset": fail_with(ProtocolError, sent=True, after_s=0.005),
    "503": respond_with(503, after_s=0.005),
    "black hole": fail_with(AttemptTimeout, sent=True, after_s=10.0),
}


def outage(upstream: InMemoryUpstream, kind: str, count: int) -> None:
    for index in range(count):
        upstream.script_path(f"/{index}", KINDS[kind])


def recover(upstream: InMemoryUpstream, count: int) -> None:
    for index in range(count):
        upstream.script_path(f"/{index}", respond_with(after_s=0.01))


def breaker(service) -> str:
    return state_of(service.registry.get("api"), time.perf_counter()).breaker


@pytest.mark.parametrize("strategy", [Strategy.ADAPTIVE, Strategy.CONCURRENT, Strategy.BOUNDED])
@pytest.mark.parametrize("kind", ["refused", "reset", "503"])
@virtual_time
async def test_during_an_outage_sends_stay_within_the_promise(kind: str, strategy: Strategy):
    upstream = InMemoryUpstream()
    outage(upstream, kind, 400)
    with in_memory_service(upstream) as service:
        began_at = time.perf_counter()
        outcomes = await run_batch(service, Batch(items(400), strategy=strategy, deadline_s=20.0))
        lasted_s = time.perf_counter() - began_at
        assert len(upstream.sent) <= 1.2 * 400 + 3 * (lasted_s + 1)
        assert all(outcome.outcome is not OutcomeKind.SUCCESS for outcome in outcomes)
        assert is_idle(service)


@pytest.mark.parametrize("by", ["timeout", "deadline"])
@virtual_time
async def test_a_caller_in_a_hurry_does_not_close_an_upstream_to_the_others(by: str):
    upstream = InMemoryUpstream(default=respond_with(after_s=0.2))
    with in_memory_service(upstream) as service:
        await run_batch(service, Batch(items(20), deadline_s=10.0))
        limit = state_of(service.registry.get("api"), time.perf_counter()).concurrency_limit
        for _ in range(60):
            if by == "timeout":
                hasty = Batch([Item(upstream="api", path="/", timeout=0.05)] * 20, deadline_s=10.0)
            else:
                hasty = Batch(items(20), deadline_s=0.05)
            outcomes = await run_batch(service, hasty)
            assert not {"success", "circuit_open"} & set(outcome_codes(outcomes))
        assert breaker(service) == "closed"
        assert state_of(service.registry.get("api"), time.perf_counter()).concurrency_limit >= limit
        patient = await run_batch(service, Batch(items(5), deadline_s=10.0, priority=Priority.INTERACTIVE))
        assert outcome_codes(patient) == ["success"] * 5


@pytest.mark.parametrize("down_s", [3.0, 60.0, 300.0])
@pytest.mark.parametrize("kind", ["refused", "reset", "503"])
@virtual_time
async def test_an_outage_is_over_within_five_seconds_of_recovery(kind: str, down_s: float):
    upstream = InMemoryUpstream(after_s=0.01)
    outage(upstream, kind, 40)
    with in_memory_service(upstream) as service:
        await run_batch(service, Batch(items(40), deadline_s=down_s))  # opens the breaker
        ends_at = time.perf_counter() + down_s
        while time.perf_counter() < ends_at:
            await run_batch(service, Batch(items(5), deadline_s=1.0))
            await asyncio.sleep(0.5)
        recover(upstream, 40)
        recovered_at = time.perf_counter()
        outcomes = await run_batch(service, Batch(items(40), deadline_s=20.0))
        assert time.perf_counter() - recovered_at <= 5.0 + 0.5
        assert sum(outcome.outcome is OutcomeKind.SUCCESS for outcome in outcomes) >= 38
        assert breaker(service) == "closed"


@virtual_time
async def test_an_open_breaker_is_a_pause_for_those_who_can_wait_and_a_refusal_for_the_others():
    upstream = InMemoryUpstream(after_s=0.01)
    outage(upstream, "503", 40)
    with in_memory_service(upstream, retry={"attempts": 1}) as service:
        await run_batch(service, Batch(items(40), deadline_s=50.0))
        assert breaker(service) == "open"
        recover(upstream, 40)
        urgent, hurried, patient = await asyncio.gather(
            run_batch(service, Batch(items(1), priority=Priority.INTERACTIVE)),
            run_batch(service, Batch(items(1), deadline_s=0.05)),
            run_batch(service, Batch(items(1), deadline_s=30.0)),
        )
        assert outcome_codes(urgent) == outcome_codes(hurried) == ["circuit_open"]
        assert urgent[0].error.sent is False
        assert 0 < urgent[0].error.retry_after_ms <= 5000
        assert outcome_codes(patient) == ["success"]
        assert patient[0].timing.pause_ms > 0
        assert patient[0].timing.limited_by == "pause"


@virtual_time
async def test_a_silent_upstream_opens_it_though_every_call_is_cut_off_by_its_deadline():
    upstream = InMemoryUpstream(*[respond_with(after_s=0.1)] * 20, default=never_respond())
    with in_memory_service(upstream) as service:
        await run_batch(service, Batch(items(20)))
        await run_batch(service, Batch(items(19), deadline_s=1.0))
        assert breaker(service) == "closed"
        await run_batch(service, Batch(items(1), deadline_s=1.0))
        assert breaker(service) == "open"


@virtual_time
async def test_deadlines_that_cut_off_while_others_are_answered_never_open_it():
    upstream = InMemoryUpstream(after_s=0.1)
    for index in range(30):
        upstream.script_path(f"/{index}", never_respond())
    others = [Item(upstream="api", path="/other")] * 10
    with in_memory_service(upstream, concurrency={"limit": 100}) as service:
        await run_batch(service, Batch(others[:5]))
        await asyncio.gather(
            run_batch(service, Batch(items(30), deadline_s=1.0)), run_batch(service, Batch(others, max_concurrency=1))
        )
        assert breaker(service) == "closed"


@virtual_time
async def test_who_has_waited_until_nobody_could_answer_in_time_is_not_sent():
    upstream = InMemoryUpstream(after_s=0.2)
    with in_memory_service(upstream, concurrency={"limit": 1}) as service:
        await run_batch(service, Batch(items(3)))
        outcomes = await run_batch(service, Batch(items(4), deadline_s=0.55))
        assert outcome_codes(outcomes) == ["success", "success", "deadline_unreachable", "deadline_unreachable"]
        assert outcomes[2].timing.total_ms == pytest.approx(400)
        assert outcomes[2].attempts == 0
        assert len(upstream.sent) == 5
        assert outcome_codes(await run_batch(service, Batch(items(1), deadline_s=0.1))) == ["deadline_exceeded"], (
            "it has not waited"
        )


@virtual_time
async def test_waiting_interactive_calls_are_told_when_the_breaker_opens():
    upstream = InMemoryUpstream(after_s=0.01)
    outage(upstream, "503", 40)
    with in_memory_service(upstream, concurrency={"limit": 1}, retry={"attempts": 1}) as service:
        urgent = await run_batch(service, Batch(items(40), priority=Priority.INTERACTIVE))
        assert outcome_codes(urgent).count("http_status") == 20
        assert outcome_codes(urgent).count("circuit_open") == 20
        assert is_idle(service)


@virtual_time
async def test_what_was_learned_of_health_does_not_bind_the_classic_strategies():
    upstream = InMemoryUpstream(after_s=0.01)
    outage(upstream, "503", 40)
    with in_memory_service(upstream, retry={"attempts": 1}) as service:
        await run_batch(service, Batch(items(40), strategy=Strategy.CONCURRENT))
        assert breaker(service) == "open"
        outcomes = await run_batch(service, Batch(items(3), strategy=Strategy.CONCURRENT))
        assert outcome_codes(outcomes) == ["http_status"] * 3


@pytest.mark.parametrize("status", [400, 404, 429, 501])
@virtual_time
async def test_throttles_and_what_was_answered_in_good_health_never_open_it(status: int):
    upstream = InMemoryUpstream()
    for index in range(60):
        upstream.script_path(f"/{index}", respond_with(status, after_s=0.01))
    with in_memory_service(upstream, retry={"attempts": 1}) as service:
        await run_batch(service, Batch(items(60), strategy=Strategy.CONCURRENT))
        assert breaker(service) == "closed"


@virtual_time
async def test_an_item_says_that_its_upstream_s_retry_budget_is_empty():
    told: list[Event] = []
    upstream = InMemoryUpstream()
    outage(upstream, "503", 50)
    with in_memory_service(upstream, event_log=told, retry={"budget_ratio": 0.02, "budget_per_s": 0}) as service:
        outcomes = await run_batch(service, Batch(items(50), strategy=Strategy.CONCURRENT))
        assert sum(outcome.attempts - 1 for outcome in outcomes) == 1
        spent = [outcome for outcome in outcomes if "retry budget" in outcome.error.message]
        assert len(spent) >= 49


@virtual_time
async def test_an_adaptive_limit_finds_a_server_of_twelve_slots_that_are_held_until_the_last_byte():
    """The first byte comes early in a slot, as from a stream: alone it would say that the queue is most of the time."""
    slots, draw = asyncio.Semaphore(12), random.Random(1)

    async def served(request: Request) -> Response:
        request.exchange.mark_written(time.perf_counter())
        async with slots:
            await asyncio.sleep(0.001)
            request.exchange.answered_at = time.perf_counter()
            await asyncio.sleep(0.019 * draw.uniform(0.9, 1.1))
        return Response(200, (), b"")

    upstream = InMemoryUpstream(default=served)
    with in_memory_service(upstream) as service:
        began_at = time.perf_counter()
        outcomes = await run_batch(service, Batch(items(8_000), deadline_s=60.0))
        took_s = time.perf_counter() - began_at
        waits = sorted(outcome.timing.upstream_ms for outcome in outcomes[2_000:])
        assert outcome_codes(outcomes).count("success") == 8_000
        assert 8_000 / took_s >= 0.95 * 12 / 0.02
        assert waits[len(waits) // 2] <= 1.5 * 20
