"""`halt` and `stop` end a batch's items before their time, and each of them still gets its outcome."""

from __future__ import annotations

import asyncio

from paceline.batch.run import StopReason
from paceline.model import Batch, Item, Outcome, OutcomeKind, Strategy
from support.in_memory_upstream import (
    InMemoryUpstream,
    in_memory_service,
    is_idle,
    items,
    never_respond,
    outcome_codes,
    respond_with,
    run_batch,
)
from support.virtual_clock import virtual_time


@virtual_time
async def test_the_item_that_halts_the_batch_keeps_its_own_outcome():
    upstream = InMemoryUpstream(respond_with(404, after_s=0.1), after_s=1.0)
    with in_memory_service(upstream) as service:
        outcomes = await run_batch(service, Batch(items(3), halt=True))
        assert outcome_codes(outcomes) == ["http_status", "cancelled", "cancelled"]
        assert [outcome.error.sent for outcome in outcomes] == [True, True, True]
        assert is_idle(service)


@virtual_time
async def test_items_that_had_not_even_begun_are_halted_too():
    with in_memory_service(InMemoryUpstream()) as service:
        outcomes = await run_batch(service, Batch([Item(url="nonsense"), *items(200)], halt=True))
        assert outcome_codes(outcomes) == ["invalid_request", *["halted"] * 200]
        assert not any(outcome.error.sent for outcome in outcomes)


@virtual_time
async def test_waiting_items_are_halted_and_running_ones_cancelled():
    upstream = InMemoryUpstream(respond_with(500, after_s=0.1), never_respond())
    with in_memory_service(upstream, concurrency={"limit": 2}, retry={"attempts": 1}) as service:
        outcomes = await run_batch(service, Batch(items(4), halt=True))
        assert outcome_codes(outcomes) == ["http_status", "cancelled", "halted", "halted"]
        assert is_idle(service)


@virtual_time
async def test_one_item_after_another_halts_at_the_first_failure():
    upstream = InMemoryUpstream(respond_with(), respond_with(404))
    with in_memory_service(upstream) as service:
        outcomes = await run_batch(service, Batch(items(4), strategy=Strategy.SEQUENTIAL, halt=True))
        assert outcome_codes(outcomes) == ["success", "http_status", "halted", "halted"]
        assert len(upstream.sent) == 2


@virtual_time
async def test_what_waits_for_a_dependency_is_halted_before_its_time_began():
    upstream = InMemoryUpstream()
    upstream.script_path("/0", never_respond())
    upstream.script_path("/1", respond_with(404, after_s=2.0))
    batch = Batch([*items(2), Item(upstream="api", path="/2", depends_on=["0"])], halt=True)
    with in_memory_service(upstream) as service:
        outcomes = await run_batch(service, batch)
    assert outcome_codes(outcomes) == ["cancelled", "http_status", "halted"]
    assert (outcomes[2].timing.start_ms, outcomes[2].timing.total_ms) == (2000.0, 0.0)


@virtual_time
async def test_a_stopping_service_ends_every_item_of_every_batch():
    upstream = InMemoryUpstream(never_respond(), never_respond())
    with in_memory_service(upstream, concurrency={"limit": 2}) as service:
        batch = asyncio.create_task(run_batch(service, Batch(items(3))))
        await asyncio.sleep(1.0)
        service.runner.stop_all()
        outcomes = await batch
        assert [outcome.outcome for outcome in outcomes] == [*[OutcomeKind.CANCELLED] * 2, OutcomeKind.REJECTED]
        assert outcome_codes(outcomes) == ["cancelled", "cancelled", "overloaded"]
        assert is_idle(service)
        assert service.runner.active_batches == 0


@virtual_time
async def test_a_stop_just_as_an_item_was_started_loses_nothing():
    upstream = InMemoryUpstream()
    with in_memory_service(upstream) as service:
        found: list[Outcome] = []
        batch = Batch(items(5), strategy=Strategy.SEQUENTIAL)
        run_ = service.runner.open_run(batch)
        task = asyncio.create_task(service.runner.run(batch, found.append, run_))
        await asyncio.sleep(0)  # the first item's task is made and has not had its first step
        run_.stop(StopReason.SHUTDOWN)
        await task
        assert outcome_codes(found) == ["overloaded"] * 5
        assert not upstream.sent


@virtual_time
async def test_a_listener_that_fails_ends_the_run_instead_of_hanging_it():
    class Broken(Exception):
        pass

    def keep(_: Outcome) -> None:
        raise Broken

    with in_memory_service(InMemoryUpstream()) as service:
        try:
            await service.runner.run(Batch(items(3)), keep)
        except Broken:
            pass
        else:
            raise AssertionError("what the caller raised must come back to it")
        assert is_idle(service)
        assert service.runner.active_batches == 0
