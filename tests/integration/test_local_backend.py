"""A run on the engine itself: slots, order, interruption, each over real sockets to a scripted upstream."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from paceline.cli.flag_parsing import batch_from_flags
from paceline.cli.io.ndjson_reader import NdjsonReader
from paceline.cli.io.output_file import open_output
from paceline.cli.io.output_writer import OutputWriter
from paceline.cli.local_backend import LocalBackend
from paceline.config import Config
from paceline.model import Strategy
from support.reader_threads import wait_for_reader_threads
from tools.scripted_upstream import ScriptedUpstream
from tools.waiting import wait_until


class Running:
    """A run whose input is a pipe that the test writes to."""

    def __init__(self, upstream: ScriptedUpstream, out: Path, lookahead: int, **batch: Any) -> None:
        declared = {"base_url": upstream.url, "allow_private": True, "concurrency": {"limit": 8}}
        config = Config.model_validate({"upstreams": {"api": declared}})
        self.out = out
        self.read_end, self.write_end = os.pipe()
        self.source = NdjsonReader(self.read_end)
        self.sink, _ = open_output(str(out), resume=False)
        self.outlet = OutputWriter(self.sink, lookahead)
        self.way = LocalBackend(config, batch_from_flags(**batch))
        self.writing = asyncio.create_task(self.outlet.write_until_finished())
        self.carrying = asyncio.create_task(self.way.run(self.source, self.outlet))

    def feed(self, *paths: str) -> None:
        lines = [json.dumps({"id": path, "upstream": "api", "path": f"/{path}"}) for path in paths]
        os.write(self.write_end, "".join(line + "\n" for line in lines).encode())

    def end_of_input(self) -> None:
        os.close(self.write_end)
        self.write_end = -1

    def written(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_bytes().splitlines()]

    async def done(self) -> list[dict[str, Any]]:
        await self.carrying
        self.outlet.finish()
        await self.writing
        return self.written()

    async def close(self) -> None:
        for task in (self.carrying, self.writing):
            task.cancel()
        await asyncio.gather(self.carrying, self.writing, return_exceptions=True)
        await self.way.close()
        if self.write_end >= 0:
            self.end_of_input()
        self.source.close()
        self.sink.close()
        await wait_for_reader_threads()
        os.close(self.read_end)


@asynccontextmanager
async def running(
    upstream: ScriptedUpstream, tmp_path: Path, lookahead: int = 100, **batch: Any
) -> AsyncIterator[Running]:
    run = Running(upstream, tmp_path / "out.ndjson", lookahead, **batch)
    try:
        yield run
    finally:
        await run.close()


async def test_every_item_has_exactly_one_outcome_in_order_of_completion(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script_response("/slow", delay_s=0.3)
    async with running(upstream, tmp_path) as run:
        names = ["slow", *(f"item-{number}" for number in range(300))]
        run.feed(*names)
        run.end_of_input()
        outcomes = await run.done()
    assert sorted(outcome["id"] for outcome in outcomes) == sorted(names)
    assert all(outcome["outcome"] == "success" for outcome in outcomes)
    assert {outcome["id"]: outcome["index"] for outcome in outcomes} == {name: at for at, name in enumerate(names)}
    assert outcomes[0]["id"] != "slow"


async def test_an_outcome_is_written_before_the_input_ends(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with running(upstream, tmp_path) as run:
        run.feed("first")
        await wait_until(lambda: bool(run.written()))
        run.feed("second")
        run.end_of_input()
        assert [outcome["id"] for outcome in await run.done()] == ["first", "second"]


async def test_no_more_items_are_read_than_the_look_ahead_allows(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    gate = asyncio.Event()
    upstream.script_response(hold=gate)
    async with running(upstream, tmp_path, lookahead=5) as run:
        run.feed(*(f"item-{number}" for number in range(50)))
        run.end_of_input()
        await upstream.wait_until(lambda seen: seen.in_progress == 5)
        await asyncio.sleep(0.1)
        assert run.source.lines_read == 5
        assert upstream.in_progress_max == 5
        gate.set()
        assert len(await run.done()) == 50
    assert upstream.in_progress_max <= 5


async def test_sequential_is_one_after_another_in_the_order_of_the_input(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async with running(upstream, tmp_path, strategy=Strategy.SEQUENTIAL) as run:
        names = [f"item-{number}" for number in range(20)]
        run.feed(*names)
        run.end_of_input()
        assert [outcome["id"] for outcome in await run.done()] == names
    assert upstream.in_progress_max == 1


async def test_an_interrupted_run_lets_what_is_in_flight_end_and_sends_nothing_more(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    upstream.script_response(hold=gate)
    async with running(upstream, tmp_path) as run:
        run.feed(*(f"item-{number}" for number in range(30)))
        await upstream.wait_until(lambda seen: seen.in_progress == 8)
        run.carrying.cancel()
        await asyncio.wait({run.carrying})
        settling = asyncio.create_task(run.way.drain(10))
        await asyncio.sleep(0.05)
        assert not settling.done()
        gate.set()
        await settling
        await run.way.close()
        run.outlet.finish()
        await run.writing
        outcomes = run.written()
    assert len(upstream.requests) == 8
    assert sorted(outcome["id"] for outcome in outcomes) == sorted(f"item-{number}" for number in range(8))
    assert all(outcome["outcome"] == "success" for outcome in outcomes)


async def test_an_interrupted_run_does_not_wait_for_a_silent_upstream(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script_response(hold=asyncio.Event())
    async with running(upstream, tmp_path) as run:
        run.feed("never", "ever")
        await upstream.wait_until(lambda seen: seen.in_progress == 2)
        run.carrying.cancel()
        await asyncio.wait({run.carrying})
        async with asyncio.timeout(10):
            await run.way.drain(0.1)
            await run.way.close()
        run.outlet.finish()
        await run.writing
        assert run.written() == []


async def test_past_the_deadline_every_item_still_has_its_outcome(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.script_response(hold=asyncio.Event())
    async with running(upstream, tmp_path, deadline="300ms") as run:
        run.feed(*(f"item-{number}" for number in range(30)))
        run.end_of_input()
        async with asyncio.timeout(20):
            outcomes = await run.done()
    assert len(outcomes) == 30
    assert {outcome["outcome"] for outcome in outcomes} == {"deadline_exceeded"}
