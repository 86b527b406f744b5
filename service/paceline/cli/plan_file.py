"""`paceline plan`: simulate sending a file and print how long it would take; nothing is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import msgspec
import uvloop

from paceline.app import Service
from paceline.batch.plan import Plan, UpstreamPlan, run_simulation
from paceline.batch.plan_simulation import BatchSimulation
from paceline.cli.io.batch_json import BatchEncoder
from paceline.cli.io.input_file import close_input, open_input
from paceline.cli.io.ndjson_reader import InputLine, NdjsonReader
from paceline.cli.ui.table import format_ms, render_table
from paceline.cli.usage_error import UsageError
from paceline.config import Config
from paceline.model import Batch
from paceline.units import MAX_DURATION_S, format_rounded_duration

if TYPE_CHECKING:
    from paceline.cli.io.service_client import ServiceClient

EXIT_ALL_ON_TIME = 0
EXIT_SOME_NOT_ON_TIME = 1

_MAX_LINES_PER_TURN = 64


def plan_file(file: str, batch: Batch, backend: Config | ServiceClient, lookahead: int, call_s: float | None) -> int:
    """Print the plan of a file; the exit code says whether everything would be sent, and in time.

    Raises:
        UsageError: the file or the service cannot be used so.
    """
    fd = open_input(file)
    try:
        if isinstance(backend, Config):
            result = uvloop.run(_plan_locally(fd, batch, backend, lookahead, call_s))
        else:
            result = uvloop.run(_plan_remotely(fd, batch, backend))
    finally:
        close_input(fd)
    has_deadline = batch.deadline_s < MAX_DURATION_S
    table = _upstreams_table(result.per_upstream, has_deadline=has_deadline)
    print(f"{table}\n\n{_summary(result, has_deadline=has_deadline)}")
    missed = result.misses_deadline and (has_deadline or result.finish_in_ms is None)
    return EXIT_SOME_NOT_ON_TIME if missed or result.rejected else EXIT_ALL_ON_TIME


async def _plan_locally(fd: int, batch: Batch, config: Config, lookahead: int, call_s: float | None) -> Plan:
    service = Service(config)
    reader = NdjsonReader(fd)
    simulation = BatchSimulation(service.registry, batch, lookahead, call_s)
    try:
        while lines := await reader.read_lines(_MAX_LINES_PER_TURN):
            for line in lines:
                if isinstance(line, InputLine):
                    simulation.add_item(line.item)
                else:
                    simulation.add_invalid_item()
            await asyncio.sleep(0)
        return await run_simulation(simulation)
    finally:
        reader.close()
        await service.close()


async def _plan_remotely(fd: int, batch: Batch, client: ServiceClient) -> Plan:
    reader = NdjsonReader(fd)
    chunk: list[InputLine] = []
    invalid_count = 0
    try:
        while lines := await reader.read_lines(_MAX_LINES_PER_TURN):
            items = [entry for entry in lines if isinstance(entry, InputLine)]
            invalid_count += len(lines) - len(items)
            chunk += items
    finally:
        reader.close()
    if not chunk:
        return Plan(0.0, None, 0, invalid_count, [])
    deadline_s = batch.deadline_s if batch.deadline_s < MAX_DURATION_S else None
    async with aclosing(client):
        response = await client.call("POST", "/v1/plan", BatchEncoder(batch).encode(chunk, deadline_s))
    try:
        result = msgspec.json.decode(response, type=Plan)
    except msgspec.DecodeError:
        raise UsageError("the service answered what is no plan; is it Paceline of this version?") from None
    return replace(result, rejected=result.rejected + invalid_count)


def _upstreams_table(rows: Sequence[UpstreamPlan], *, has_deadline: bool) -> str:
    deadline_heading = ["too late"] if has_deadline else []
    headings = ["upstream", "items", "done in", "bound by", *deadline_heading, "rejected", "a call takes"]
    return render_table(
        headings,
        [
            [
                row.upstream,
                f"{row.items:,}",
                _format_span(row.finish_in_ms),
                row.window or "-",
                *([f"{row.misses_deadline:,}"] if has_deadline else []),
                f"{row.rejected:,}",
                format_ms(row.call_ms),
            ]
            for row in sorted(rows, key=lambda row: inf if row.finish_in_ms is None else row.finish_in_ms)
        ],
        left_aligned=(0, 3),
    )


def _summary(plan: Plan, *, has_deadline: bool) -> str:
    rejected_without_upstream = plan.rejected - sum(row.rejected for row in plan.per_upstream)
    total = sum(row.items for row in plan.per_upstream) + rejected_without_upstream
    if plan.finish_in_ms is None:
        parts = [f"{total:,} items: nobody can say when, as long as what holds them stands"]
    else:
        parts = [f"{total:,} items in {_format_span(plan.finish_in_ms)}"]
    if plan.binding is not None:
        window, name = plan.binding.window, plan.binding.upstream
        parts.append(f"{name} is paused" if window == "pause" else f"bound by {window} of {name}")
    if has_deadline and plan.misses_deadline:
        parts.append(f"{plan.misses_deadline:,} would miss the deadline")
    if plan.rejected:
        parts.append(f"{plan.rejected:,} would be rejected")
    return "; ".join(parts)


def _format_span(milliseconds: float | None) -> str:
    return "?" if milliseconds is None else format_rounded_duration(milliseconds / 1000, clock=True)
