"""`paceline plan`: what sending a file would take, told without sending anything of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from math import inf

import msgspec
import uvloop

from paceline.app import Service
from paceline.batch.plan import Plan, UpstreamPlan, perform
from paceline.batch.rehearsal import Rehearsal
from paceline.cli.client import BrokenOff, ServiceClient, Unreachable
from paceline.cli.grid import grid
from paceline.cli.options import UsageProblem
from paceline.cli.progress import clock
from paceline.cli.remote import batch_body
from paceline.cli.report import duration
from paceline.cli.run import open_input
from paceline.cli.source import Entry, Source
from paceline.config import Config
from paceline.model import Batch
from paceline.units import LONGEST_S

ALL_IN_TIME = 0
SOME_WOULD_NOT = 1

_AT_ONCE = 64


def plan(file: str, batch: Batch, way: Config | ServiceClient, lookahead: int, call_s: float | None) -> int:
    """Print the plan of a file; the exit code says whether everything would be sent, and in time.

    Raises:
        UsageProblem: the file or the service cannot be used so.
    """
    fd = open_input(file)
    try:
        if isinstance(way, ServiceClient):
            told = uvloop.run(_there(fd, batch, way))
        else:
            told = uvloop.run(_here(fd, batch, way, lookahead, call_s))
    finally:
        if fd > 0:
            os.close(fd)
    limited = batch.deadline_s < LONGEST_S
    print(f"{_table(told.per_upstream, limited=limited)}\n\n{_summary(told, limited=limited)}")
    missed = told.misses_deadline and (limited or told.finish_in_ms is None)
    return SOME_WOULD_NOT if missed or told.rejected else ALL_IN_TIME


async def _here(fd: int, batch: Batch, config: Config, lookahead: int, call_s: float | None) -> Plan:
    service = Service(config)
    source = Source(fd)
    rehearsal = Rehearsal(service.registry, batch, lookahead, call_s)
    try:
        while entries := await source.take(_AT_ONCE):
            for entry in entries:
                if isinstance(entry, Entry):
                    rehearsal.add(entry.item)
                else:
                    rehearsal.add_unusable()
            await asyncio.sleep(0)
        return await perform(rehearsal)
    finally:
        source.close()
        await service.close()


async def _there(fd: int, batch: Batch, client: ServiceClient) -> Plan:
    source = Source(fd)
    chunk: list[Entry] = []
    unusable = 0
    try:
        while entries := await source.take(_AT_ONCE):
            usable = [entry for entry in entries if isinstance(entry, Entry)]
            unusable += len(entries) - len(usable)
            chunk += usable
    finally:
        source.close()
    if not chunk:
        return Plan(0.0, None, 0, unusable, [])
    deadline_s = batch.deadline_s if batch.deadline_s < LONGEST_S else None
    try:
        async with client.post("/v1/plan", batch_body(batch, chunk, deadline_s)) as reply:
            if reply.status != 200:
                raise await reply.refusal()
            told = msgspec.json.decode(await reply.body(), type=Plan)
    except (Unreachable, BrokenOff) as error:
        raise UsageProblem(str(error)) from None
    except msgspec.DecodeError:
        raise UsageProblem("the service answered what is no plan; is it Paceline of this version?") from None
    return msgspec.structs.replace(told, rejected=told.rejected + unusable)


def _table(rows: Sequence[UpstreamPlan], *, limited: bool) -> str:
    late = ["too late"] if limited else []
    headings = ["upstream", "items", "done in", "bound by", *late, "rejected", "a call takes"]
    return grid(
        headings,
        [
            [
                row.upstream,
                f"{row.items:,}",
                _span(row.finish_in_ms),
                row.window or "-",
                *([f"{row.misses_deadline:,}"] if limited else []),
                f"{row.rejected:,}",
                duration(row.call_ms),
            ]
            for row in sorted(rows, key=lambda row: inf if row.finish_in_ms is None else row.finish_in_ms)
        ],
        left=(0, 3),
    )


def _summary(told: Plan, *, limited: bool) -> str:
    elsewhere = told.rejected - sum(row.rejected for row in told.per_upstream)
    total = sum(row.items for row in told.per_upstream) + elsewhere
    if told.finish_in_ms is None:
        parts = [f"{total:,} items: nobody can say when, as long as what holds them stands"]
    else:
        parts = [f"{total:,} items in {_span(told.finish_in_ms)}"]
    if told.binding is not None:
        window, name = told.binding.window, told.binding.upstream
        parts.append(f"{name} is paused" if window == "pause" else f"bound by {window} of {name}")
    if limited and told.misses_deadline:
        parts.append(f"{told.misses_deadline:,} would miss the deadline")
    if told.rejected:
        parts.append(f"{told.rejected:,} would be rejected")
    return "; ".join(parts)


def _span(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "?"
    return duration(milliseconds) if milliseconds < 60_000 else clock(milliseconds / 1000)
