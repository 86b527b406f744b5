"""An upstream that goes down under a steady stream of items, in virtual time: found as soon as it is back.

It is down for longer than the items have time, so that in the queue those come first that have hardly any left.
"""

from __future__ import annotations

import asyncio
import random
import time
from itertools import pairwise

import pytest

from paceline.errors import AttemptTimeout, ConnectFailed, ProtocolError
from paceline.model import Batch, OutcomeKind, Request, Response
from support.in_memory_upstream import (
    Handler,
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

SLOTS, SERVICE_S = 5, 0.1
LOAD, AT_ONCE = 0.9, 5
PER_S = LOAD * SLOTS / SERVICE_S
DEADLINE_S, ATTEMPT_S = 5.0, 2.0
HEALTHY_S, DOWN_S, AFTER_S = 10.0, 15.0, 14.0

KINDS: dict[str, Handler] = {
    "refused": fail_with(ConnectFailed, sent=False, after_s=0.001),
    "reset": fail_with(ProtocolError, sent=True, after_s=0.005),
    "503": respond_with(503, after_s=0.005),
    "silent": fail_with(AttemptTimeout, sent=True, after_s=ATTEMPT_S),
}


class Flaky:
    """Serves with a number of slots, or fails in a given way while it is down."""

    def __init__(self, kind: str) -> None:
        self.failing = KINDS[kind]
        self.down = False
        self.slots = asyncio.Semaphore(SLOTS)
        self.sent_at: list[float] = []

    async def __call__(self, request: Request) -> Response:
        self.sent_at.append(time.perf_counter())
        if self.down:
            return await self.failing(request)
        request.exchange.mark_written(time.perf_counter())
        async with self.slots:
            await asyncio.sleep(SERVICE_S * random.uniform(0.9, 1.1))
        request.exchange.answered_at = time.perf_counter()
        return Response(200, (), b"")

    async def outage(self) -> None:
        await asyncio.sleep(HEALTHY_S)
        self.down = True
        await asyncio.sleep(DOWN_S)
        self.down = False


@pytest.mark.parametrize("kind", KINDS)
@virtual_time
async def test_an_outage_longer_than_anybody_can_wait_is_over_in_time(kind: str) -> None:
    flaky = Flaky(kind)
    offered = 0
    good: list[float] = []
    with in_memory_service(InMemoryUpstream(default=flaky), timeout={"attempt": f"{ATTEMPT_S}s"}) as service:

        async def batch() -> None:
            began_at = time.perf_counter()
            for outcome in await run_batch(service, Batch(items(AT_ONCE), deadline_s=DEADLINE_S)):
                if outcome.outcome is OutcomeKind.SUCCESS:
                    good.append(began_at + (outcome.timing.start_ms + outcome.timing.total_ms) / 1000)

        began_at = time.perf_counter()
        ends_at = began_at + HEALTHY_S + DOWN_S + AFTER_S
        async with asyncio.TaskGroup() as group:
            group.create_task(flaky.outage())
            while time.perf_counter() < ends_at:
                group.create_task(batch())
                offered += AT_ONCE
                await asyncio.sleep(AT_ONCE / PER_S)
        assert is_idle(service)

    down_at, up_at = began_at + HEALTHY_S, began_at + HEALTHY_S + DOWN_S
    over_at = up_at + 5.0 + (ATTEMPT_S if kind == "silent" else 0.0)
    goodput = [sum(over_at + s <= at < over_at + s + 1 for at in good) / PER_S for s in range(int(ends_at - over_at))]
    assert len(goodput) >= 6
    assert min(goodput) > 0.95, goodput
    during = [at for at in flaky.sent_at if down_at <= at < up_at]
    assert len(during) <= 1.2 * PER_S * DOWN_S + 3 * DOWN_S
    assert len(flaky.sent_at) <= 1.2 * offered + 3 * DOWN_S
    late = [at for at in during if at > up_at - 2.0]
    assert all(after - before > 0.7 for before, after in pairwise(late)), [at - down_at for at in late]


@virtual_time
async def test_who_could_not_be_answered_after_the_next_trial_does_not_wait_for_it() -> None:
    """Those who have the least time left come first: as trials they would be cut off, and tell nothing."""
    healthy, failing = [respond_with(after_s=0.5)] * 30, [respond_with(503, after_s=0.001)] * 30
    upstream = InMemoryUpstream(*healthy, *failing, default=respond_with(after_s=0.5))
    with in_memory_service(upstream, retry={"attempts": 1}, breaker={"open": "2s"}) as service:
        await run_batch(service, Batch(items(30)))
        await run_batch(service, Batch(items(30)))
        opened_at = time.perf_counter()
        short, long = await asyncio.gather(
            run_batch(service, Batch(items(20), deadline_s=1.95)), run_batch(service, Batch(items(5), deadline_s=30.0))
        )
        assert outcome_codes(short) == ["circuit_open"] * 20
        assert all(outcome.timing.total_ms < 1 for outcome in short)
        assert outcome_codes(long) == ["success"] * 5
        assert time.perf_counter() - opened_at <= 2.0 + 0.5 + 0.5


@virtual_time
async def test_an_upstream_that_is_slow_at_first_when_it_is_back_is_found_all_the_same() -> None:
    """Who comes first has the least time left: each trial could be cut off a little before its answer, for ever."""
    back = False
    answered = 0

    async def served(request: Request) -> Response:
        nonlocal answered
        if not back:
            return await respond_with(503, after_s=0.001)(request)
        response = await respond_with(after_s=0.01 if answered else 1.5)(request)
        answered += 1
        return response

    upstream = InMemoryUpstream(*[respond_with(after_s=0.01)] * 30, default=served)
    with in_memory_service(upstream, retry={"attempts": 1}) as service:
        await run_batch(service, Batch(items(30)))
        async with asyncio.TaskGroup() as group:
            for number in range(300):
                last = group.create_task(run_batch(service, Batch(items(5), deadline_s=6.0)))
                back = number >= 150
                await asyncio.sleep(0.1)
        assert outcome_codes(last.result()) == ["success"] * 5


@virtual_time
async def test_a_trial_is_one_that_has_the_time_for_an_answer() -> None:
    """While a trial is unanswered others come to their end: they are not the next."""
    healthy, failing = [respond_with(after_s=0.5)] * 30, [respond_with(503, after_s=0.001)] * 30
    upstream = InMemoryUpstream(*healthy, *failing, never_respond(), default=respond_with(after_s=0.5))
    with in_memory_service(upstream, retry={"attempts": 1}, breaker={"open": "1s", "max_open": "1s"}) as service:
        await run_batch(service, Batch(items(30)))
        await run_batch(service, Batch(items(30)))
        outcomes = await asyncio.gather(
            *(run_batch(service, Batch(items(1), deadline_s=s)) for s in (9.0, 2.0, 2.0, 30.0))
        )
        ended = [outcome_codes(one)[0] for one in outcomes]
        assert ended[0] == "deadline_exceeded"
        assert ended[3] == "success"
        assert outcomes[3][0].timing.total_ms <= 2500


@virtual_time
async def test_trials_that_are_cut_off_do_not_follow_one_another_at_once() -> None:
    upstream = InMemoryUpstream(*[respond_with(503, after_s=0.001)] * 20, default=never_respond())
    with in_memory_service(upstream, retry={"attempts": 1}) as service:
        await run_batch(service, Batch(items(20)))
        opened_at = time.perf_counter()
        while time.perf_counter() < opened_at + 10.0:
            await run_batch(service, Batch(items(5), deadline_s=0.05))
            await asyncio.sleep(0.05)
        assert 5 <= len(upstream.sent) - 20 <= 11
