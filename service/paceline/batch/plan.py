"""What a batch would take, told before anything of it is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf

from msgspec import Struct

from paceline.admission.forecast import Course
from paceline.admission.lineup import Lane
from paceline.batch.order import in_order
from paceline.batch.rehearsal import Rehearsal, Row
from paceline.model import Batch, Item, Rate
from paceline.units import write_duration
from paceline.upstream.pipeline import lane_of, own_cap
from paceline.upstream.registry import Registry

_TURN_S = 0.004
"""Work between two turns of the event loop."""
_LEAST_S = 0.001
"""Waits that add up to less bind nothing."""


class Binding(Struct, frozen=True):
    """What the finish time hangs on: a window as `limit/per`, `header`, `concurrency` or `pause`."""

    upstream: str
    window: str


class UpstreamPlan(Struct, frozen=True):
    """One upstream's part; `call_ms` is how long each call was taken to be."""

    upstream: str
    items: int
    finish_in_ms: float | None
    window: str | None
    misses_deadline: int
    rejected: int
    call_ms: float


class Plan(Struct, frozen=True):
    """The whole; `finish_in_ms` is None where nobody can say, as under an operator's pause.

    `rejected` items would never be sent: unusable, unpayable, or dependent on such; some belong to no upstream.
    """

    finish_in_ms: float | None
    binding: Binding | None
    misses_deadline: int
    rejected: int
    per_upstream: list[UpstreamPlan]


async def plan_batch(registry: Registry, batch: Batch) -> Plan:
    """Plan a checked batch; the event loop gets its turns meanwhile."""
    needs, order = in_order(batch.items)
    rehearsal = Rehearsal(registry, batch)
    await _in_turns(_add(rehearsal, batch.items))
    return await perform(rehearsal, needs, order)


async def perform(
    rehearsal: Rehearsal, needs: Mapping[int, Sequence[int]] | None = None, order: Sequence[int] | None = None
) -> Plan:
    """Run a rehearsal that has all its items, and tell what came of it."""
    rehearsal.open(time.perf_counter(), needs or {}, order)
    await _in_turns(rehearsal.run())
    return _told(rehearsal)


def _add(rehearsal: Rehearsal, items: Iterable[Item]) -> Iterator[None]:
    for item in items:
        rehearsal.add(item)
        yield


async def _in_turns(steps: Iterator[None]) -> None:
    """Take every step, and let others work after each few milliseconds."""
    began_at = time.perf_counter()
    for _ in steps:
        if time.perf_counter() - began_at > _TURN_S:
            await asyncio.sleep(0)
            began_at = time.perf_counter()


def _told(rehearsal: Rehearsal) -> Plan:
    rows = [_upstream(row, rehearsal) for row in rehearsal.rows.values()]
    last = max(rows, key=lambda row: inf if row.finish_in_ms is None else row.finish_in_ms, default=None)
    return Plan(
        finish_in_ms=0.0 if last is None else last.finish_in_ms,
        binding=None if last is None or last.window is None else Binding(last.upstream, last.window),
        misses_deadline=sum(row.misses_deadline for row in rows),
        rejected=rehearsal.rejected,
        per_upstream=rows,
    )


def _upstream(row: Row, rehearsal: Rehearsal) -> UpstreamPlan:
    finished_at = rehearsal.began_at if row.finished_at is None else row.finished_at
    return UpstreamPlan(
        upstream=row.name,
        items=row.items,
        finish_in_ms=None if row.left else round(1000 * (finished_at - rehearsal.began_at), 3),
        window=_stuck(row) if row.left else _binding(row, rehearsal),
        misses_deadline=row.misses,
        rejected=row.rejected,
        call_ms=round(1000 * max(course.call_s for course in row.courses), 3),
    )


def _stuck(row: Row) -> str:
    return "pause" if any(course.gate.paused for course in row.courses) else "concurrency"


def _binding(row: Row, rehearsal: Rehearsal) -> str | None:
    """What alone would have kept its items longest; where none of that explains it, what they waited for longest."""
    batch, receipt = rehearsal.batch, row.receipt
    call_s = max(course.call_s for course in row.courses)
    held_s = (row.finished_at or 0.0) - rehearsal.began_at - call_s
    if held_s < _LEAST_S:
        return None
    alone = [(seconds, _named(rate)) for course in row.courses for seconds, rate in course.least_s()]
    if batch.rate is not None:
        alone.append(((rehearsal.asked - batch.rate.burst) / batch.rate.per_second, _named(batch.rate)))
    grants = sum(course.grants for course in row.courses)
    cap = min(batch.max_concurrency or inf, own_cap(batch) or inf, sum(_cap(each, batch) for each in row.courses))
    alone.append(((grants / cap - 1) * call_s, "concurrency"))
    seconds, name = max(alone)
    if seconds >= held_s / 2:
        return name
    waited = [
        (receipt.rate_wait_s, "header"),
        (receipt.queue_s + rehearsal.semaphore_s, "concurrency"),
        (receipt.pause_s, "pause"),
    ]
    seconds, name = max(waited)
    return name if seconds >= _LEAST_S else None


def _cap(course: Course, batch: Batch) -> float:
    gate = course.gate
    return min(gate.limit, gate.adaptive_limit) if lane_of(batch) is Lane.ADAPTIVE else gate.limit


def _named(rate: Rate) -> str:
    return f"{rate.limit:.15g}/{write_duration(rate.per_s)}"
