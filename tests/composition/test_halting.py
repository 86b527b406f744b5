"""`halt` and `stop` end a batch's items before their time, and each of them still gets its outcome."""

from __future__ import annotations

import asyncio

from paceline.batch.runner import Ending
from paceline.model import Batch, Item, Outcome, OutcomeKind, Strategy
from support.memory import MemoryUpstream, answer, codes, items, nothing_held, run, serving_from, silent
from support.virtual_clock import virtual_time


@virtual_time
async def test_the_item_that_halts_the_batch_keeps_its_own_outcome():
    upstream = MemoryUpstream(answer(404, after_s=0.1), after_s=1.0)
    with serving_from(upstream) as service:
        outcomes = await run(service, Batch(items(3), halt=True))
        assert codes(outcomes) == ["http_status", "cancelled", "cancelled"]
        assert [outcome.error.sent for outcome in outcomes] == [True, True, True]
        assert nothing_held(service)


@virtual_time
async def test_items_that_had_not_even_begun_are_halted_too():
    with serving_from(MemoryUpstream()) as service:
        outcomes = await run(service, Batch([Item(url="nonsense"), *items(200)], halt=True))
        assert codes(outcomes) == ["invalid_request", *["halted"] * 200]
        assert not any(outcome.error.sent for outcome in outcomes)


@virtual_time
async def test_waiting_items_are_halted_and_running_ones_cancelled():
    upstream = MemoryUpstream(answer(500, after_s=0.1), silent())
    with serving_from(upstream, concurrency={"limit": 2}, retry={"attempts": 1}) as service:
        outcomes = await run(service, Batch(items(4), halt=True))
        assert codes(outcomes) == ["http_status", "cancelled", "halted", "halted"]
        assert nothing_held(service)


@virtual_time
async def test_one_item_after_another_halts_at_the_first_failure():
    upstream = MemoryUpstream(answer(), answer(404))
    with serving_from(upstream) as service:
        outcomes = await run(service, Batch(items(4), strategy=Strategy.SEQUENTIAL, halt=True))
        assert codes(outcomes) == ["success", "http_status", "halted", "halted"]
        assert len(upstream.sent) == 2


@virtual_time
async def test_what_waits_for_a_dependency_is_halted_before_its_time_began():
    upstream = MemoryUpstream()
    upstream.at_path("/0", silent())
    upstream.at_path("/1", answer(404, after_s=2.0))
    batch = Batch([*items(2), Item(upstream="api", path="/2", depends_on=["0"])], halt=True)
    with serving_from(upstream) as service:
        outcomes = await run(service, batch)
    assert codes(outcomes) == ["cancelled", "http_status", "halted"]
    assert (outcomes[2].timing.start_ms, outcomes[2].timing.total_ms) == (2000.0, 0.0)


@virtual_time
async def test_a_stopping_service_ends_every_item_of_every_batch():
    upstream = MemoryUpstream(silent(), silent())
    with serving_from(upstream, concurrency={"limit": 2}) as service:
        batch = asyncio.create_task(run(service, Batch(items(3))))
        await asyncio.sleep(1.0)
        service.runner.stop()
        outcomes = await batch
        assert [outcome.outcome for outcome in outcomes] == [*[OutcomeKind.CANCELLED] * 2, OutcomeKind.REJECTED]
        assert codes(outcomes) == ["cancelled", "cancelled", "overloaded"]
        assert nothing_held(service)
        assert service.runner.active == 0


@virtual_time
async def test_a_stop_just_as_an_item_was_started_loses_nothing():
    upstream = MemoryUpstream()
    with serving_from(upstream) as service:
        found: list[Outcome] = []
        batch = Batch(items(5), strategy=Strategy.SEQUENTIAL)
        run_ = service.runner.open(batch)
        task = asyncio.create_task(service.runner.run(batch, found.append, run_))
        await asyncio.sleep(0)  # the first item's task is made and has not had its first step
        run_.end(Ending.STOP)
        await task
        assert codes(found) == ["overloaded"] * 5
        assert not upstream.sent


@virtual_time
async def test_a_listener_that_fails_ends_the_run_instead_of_hanging_it():
    class Broken(Exception):
        pass

    def keep(_: Outcome) -> None:
        raise Broken

    with serving_from(MemoryUpstream()) as service:
        try:
            await service.runner.run(Batch(items(3)), keep)
        except Broken:
            pass
        else:
            raise AssertionError("what the caller raised must come back to it")
        assert nothing_held(service)
        assert service.runner.active == 0
