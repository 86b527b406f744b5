"""Whatever an upstream does and whenever a batch ends: the runner's promises, in virtual time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import BodyTooLarge, ConnectFailed, ProtocolError
from paceline.events import AttemptFinished, BatchFinished, Event, ItemFinished, RetryScheduled
from paceline.model import Batch, Item, ItemRetry, Outcome, OutcomeKind, Rate, Strategy
from support.hypothesis_profiles import examples
from support.in_memory_upstream import (
    Handler,
    InMemoryUpstream,
    fail_with,
    in_memory_service,
    is_idle,
    never_respond,
    respond_with,
    run_batch,
)
from support.virtual_clock import virtual_time

SOON = st.sampled_from([0.0, 0.01, 0.3, 2.0])
ACTS: st.SearchStrategy[Handler] = st.one_of(
    st.builds(lambda after_s: respond_with(after_s=after_s), SOON),
    st.builds(
        lambda status, after_s: respond_with(status, after_s=after_s), st.sampled_from([404, 500, 501, 503]), SOON
    ),
    st.builds(lambda wait, after_s: respond_with(429, ("retry-after-ms", wait), after_s=after_s),
              st.sampled_from(["0", "200", "3000", "99000"]), SOON),
    st.builds(lambda after_s: respond_with(429, after_s=after_s), SOON),
    st.builds(lambda kind, sent, after_s: fail_with(kind, sent=sent, after_s=after_s),
              st.sampled_from([ConnectFailed, ProtocolError, BodyTooLarge]), st.booleans(), SOON),
    st.just(never_respond()),
)  # fmt: skip

STRATEGY_FIELDS: dict[Strategy, dict[str, Any]] = {
    Strategy.SEQUENTIAL: {},
    Strategy.CONCURRENT: {},
    Strategy.BOUNDED: {"max_concurrency": 3},
    Strategy.TOKEN_BUCKET: {"max_concurrency": 3, "rate": Rate(8, 1.0, 4)},
    Strategy.ADAPTIVE: {"max_concurrency": 3, "rate": Rate(8, 1.0, 4)},
}
LIMIT = 4


@st.composite
def item_lists(draw: st.DrawFn, most: int = 12) -> list[Item]:
    """Items of every kind; each may depend on any before it, in a shuffled order."""
    count = draw(st.integers(1, most))
    order = draw(st.permutations(range(count)))
    made: dict[int, Item] = {}
    for place, index in enumerate(order):
        needs = draw(st.lists(st.sampled_from(order[:place]), max_size=2)) if place else []
        made[index] = Item(
            id=f"id{index}",
            method=draw(st.sampled_from(["GET", "POST"])),
            upstream=draw(st.sampled_from(["api", "api", "api", "nobody"])),
            path=f"/{index}",
            cost=draw(st.sampled_from([1, 1, 3, 99])),
            depends_on=[f"id{need}" for need in needs],
            timeout=draw(st.sampled_from([1, 30])),
        )
    return [made[index] for index in range(count)]


class RunnerWorld:
    def __init__(self, script: list[Handler], event_log: list[Event]) -> None:
        self.upstream = InMemoryUpstream(*script, after_s=0.2)
        self.event_log = event_log
        self.service = in_memory_service(
            self.upstream,
            event_log=event_log,
            concurrency={"limit": LIMIT},
            rate=[{"limit": 10, "per": "1s"}],
            timeout={"attempt": "5s"},
        )


@examples(50)
@given(
    batch_items=item_lists(),
    script=st.lists(ACTS, max_size=25),
    strategy=st.sampled_from(list(STRATEGY_FIELDS)),
    attempts=st.integers(1, 3),
    throttles=st.integers(0, 3),
    halt=st.booleans(),
    deadline_s=st.sampled_from([0.5, 5.0, 60.0]),
    stop_after_s=st.sampled_from([None, None, 0.0, 0.25, 3.0]),
)
@virtual_time
async def test_whatever_happens_each_item_has_one_outcome_and_every_bound_holds(
    batch_items: list[Item],
    script: list[Handler],
    strategy: Strategy,
    attempts: int,
    throttles: int,
    halt: bool,
    deadline_s: float,
    stop_after_s: float | None,
):
    world = RunnerWorld(script, event_log := [])
    retry = ItemRetry(attempts=attempts, throttles=throttles)
    batch = Batch(
        batch_items, strategy=strategy, halt=halt, deadline_s=deadline_s, retry=retry, **STRATEGY_FIELDS[strategy]
    )
    began_at = time.perf_counter()
    with world.service as service:
        if stop_after_s is not None:
            asyncio.get_running_loop().call_later(stop_after_s, service.runner.stop_all)
        outcomes = await run_batch(service, batch)  # in request order, one for each item: `run` asserts it
        assert is_idle(service)
        assert service.registry._socket_pool.in_flight == 0
        assert service.runner.active_batches == 0
    assert time.perf_counter() - began_at <= deadline_s + 0.1
    assert [outcome.id for outcome in outcomes] == [item.id for item in batch_items]
    caps = {Strategy.SEQUENTIAL: 1, Strategy.CONCURRENT: LIMIT}
    assert world.upstream.in_flight_max <= caps.get(strategy, 3)
    check_attempts(world, outcomes, attempts, throttles)
    check_dependencies(batch_items, outcomes)
    for outcome in outcomes:
        check_receipt(outcome)
        check_shape(outcome)
    check_told(event_log, outcomes)


def check_attempts(world: RunnerWorld, outcomes: list[Outcome], attempts: int, throttles: int) -> None:
    sent = [each.request.url.target for each in world.upstream.sent]
    for outcome in outcomes:
        most = 1 if attempts == 1 else attempts + throttles
        assert sent.count(f"/{outcome.index}") == outcome.attempts <= most


def check_dependencies(batch_items: list[Item], outcomes: list[Outcome]) -> None:
    by_id = {outcome.id: outcome for outcome in outcomes}
    for item, outcome in zip(batch_items, outcomes, strict=True):
        assert isinstance(item.depends_on, list)
        needs = [by_id[need] for need in item.depends_on]
        if outcome.attempts:
            ready_ms = outcome.timing.start_ms
            assert all(need.outcome is OutcomeKind.SUCCESS for need in needs)
            assert all(need.timing.start_ms + need.timing.total_ms <= ready_ms + 0.01 for need in needs)
        if outcome.outcome is OutcomeKind.DEPENDENCY_FAILED:
            assert any(need.outcome is not OutcomeKind.SUCCESS for need in needs)


def check_receipt(outcome: Outcome) -> None:
    timing = outcome.timing
    parts = (timing.queue_ms, timing.rate_wait_ms, timing.pause_ms, timing.backoff_ms, timing.upstream_ms)
    assert all(part >= -0.001 for part in parts), timing
    assert sum(parts) == pytest.approx(timing.total_ms, rel=0.02, abs=5.0), timing


def check_shape(outcome: Outcome) -> None:
    assert (outcome.error is None) == (outcome.outcome is OutcomeKind.SUCCESS)
    if outcome.status is not None:
        assert outcome.outcome is (OutcomeKind.SUCCESS if outcome.status < 400 else OutcomeKind.HTTP_ERROR)
    if outcome.error is not None and outcome.outcome is OutcomeKind.REJECTED:
        assert outcome.error.sent is False
        assert outcome.attempts == 0


def check_told(event_log: list[Event], outcomes: list[Outcome]) -> None:
    finished = [event.outcome for event in event_log if isinstance(event, ItemFinished)]
    assert sorted(finished, key=lambda outcome: outcome.index) == outcomes
    (batch,) = [event for event in event_log if isinstance(event, BatchFinished)]
    summary = batch.summary
    assert summary.total == len(outcomes) == summary.succeeded + summary.failed + summary.rejected
    assert summary.attempts == sum(outcome.attempts for outcome in outcomes)
    assert summary.attempts == len([event for event in event_log if isinstance(event, AttemptFinished)])
    assert summary.retries <= len([event for event in event_log if isinstance(event, RetryScheduled)])


@examples(35)
@given(
    batch_items=item_lists(),
    script=st.lists(ACTS, max_size=15),
    strategy=st.sampled_from(list(STRATEGY_FIELDS)),
    after_s=st.sampled_from([0.0, 0.01, 0.25, 3.0]),
    turns=st.integers(0, 5),
)
@virtual_time
async def test_a_cancelled_batch_lets_go_of_everything_and_the_next_finds_an_idle_upstream(
    batch_items: list[Item], script: list[Handler], strategy: Strategy, after_s: float, turns: int
):
    world = RunnerWorld(script, [])
    with world.service as service:
        running = asyncio.create_task(
            run_batch(service, Batch(batch_items, strategy=strategy, **STRATEGY_FIELDS[strategy]))
        )
        await asyncio.sleep(after_s)
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert world.upstream.in_flight == 0
        assert is_idle(service)
        assert service.registry._socket_pool.in_flight == 0
        assert service.runner.active_batches == 0
