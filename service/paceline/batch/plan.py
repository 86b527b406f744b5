"""The plan of a batch: what sending it would take, worked out before any of it is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from pydantic import with_config

from paceline.admission.forecast import SimulatedGate
from paceline.admission.lane import Lane
from paceline.batch.dependency_order import topological_order
from paceline.batch.plan_simulation import BatchSimulation, UpstreamResult
from paceline.model import Batch, Item, Rate
from paceline.units import format_duration
from paceline.upstream.pipeline import concurrency_cap_of, lane_of
from paceline.upstream.registry import UpstreamRegistry

_YIELD_AFTER_S = 0.004
"""Seconds of work between two turns of the event loop."""
_NEGLIGIBLE_WAIT_S = 0.001
"""Seconds. A smaller sum of waits is no bottleneck."""


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class Bottleneck:
    """What the finish time depends on."""

    upstream: str
    """Name of the upstream."""
    window: str
    """The window as `limit/per`, or `header`, `concurrency` or `pause`."""


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class UpstreamPlan:
    """One upstream's part of a plan."""

    upstream: str
    """Name of the upstream; `other` for hosts that are not declared."""
    items: int
    """Items that go to the upstream."""
    finish_in_ms: float | None
    """Milliseconds until the last of them has its outcome; null if that cannot be known."""
    window: str | None
    """What the finish time depends on, as in `binding`; null if nothing holds the items back."""
    misses_deadline: int
    """Items that would miss their deadline."""
    rejected: int
    """Items that would never be sent."""
    call_ms: float
    """Milliseconds that the plan assumes for each call."""


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class Plan:
    """What a batch would take."""

    finish_in_ms: float | None
    """Milliseconds until the last outcome; null if that cannot be known, as while an operator pauses an upstream."""
    binding: Bottleneck | None
    """What the finish time depends on; null if nothing holds the items back."""
    misses_deadline: int
    """Items that would miss their deadline."""
    rejected: int
    """Items that would never be sent, those that belong to no upstream included."""
    per_upstream: list[UpstreamPlan]
    """The plan of each upstream."""


async def plan_batch(registry: UpstreamRegistry, batch: Batch) -> Plan:
    """Plan a checked batch, and yield to the event loop meanwhile."""
    dependencies, order = topological_order(batch.items)
    simulation = BatchSimulation(registry, batch)
    await _run_yielding(_add_items(simulation, batch.items))
    return await run_simulation(simulation, dependencies, order)


async def run_simulation(
    simulation: BatchSimulation,
    dependencies: Mapping[int, Sequence[int]] | None = None,
    order: Sequence[int] | None = None,
) -> Plan:
    """Run a simulation that has all its items, and build the plan from it."""
    simulation.start(time.perf_counter(), dependencies or {}, order)
    await _run_yielding(simulation.run())
    return _build_plan(simulation)


def _add_items(simulation: BatchSimulation, items: Iterable[Item]) -> Iterator[None]:
    for item in items:
        simulation.add_item(item)
        yield


async def _run_yielding(steps: Iterator[None]) -> None:
    """Take every step, and yield to the event loop every few milliseconds."""
    began_at = time.perf_counter()
    for _ in steps:
        if time.perf_counter() - began_at > _YIELD_AFTER_S:
            await asyncio.sleep(0)
            began_at = time.perf_counter()


def _build_plan(simulation: BatchSimulation) -> Plan:
    upstream_plans = [_build_upstream_plan(result, simulation) for result in simulation.results.values()]
    slowest = max(upstream_plans, key=_finish_order, default=None)
    return Plan(
        finish_in_ms=0.0 if slowest is None else slowest.finish_in_ms,
        binding=None if slowest is None or slowest.window is None else Bottleneck(slowest.upstream, slowest.window),
        misses_deadline=sum(each.misses_deadline for each in upstream_plans),
        rejected=simulation.rejected,
        per_upstream=upstream_plans,
    )


def _finish_order(plan: UpstreamPlan) -> float:
    return inf if plan.finish_in_ms is None else plan.finish_in_ms


def _build_upstream_plan(result: UpstreamResult, simulation: BatchSimulation) -> UpstreamPlan:
    finished_at = simulation.began_at if result.finished_at is None else result.finished_at
    return UpstreamPlan(
        upstream=result.name,
        items=result.items,
        finish_in_ms=None if result.unfinished else round(1000 * (finished_at - simulation.began_at), 3),
        window=_unfinished_reason(result) if result.unfinished else _find_bottleneck(result, simulation),
        misses_deadline=result.missed_deadlines,
        rejected=result.rejected,
        call_ms=round(1000 * max(each.call_duration_s for each in result.simulated_gates), 3),
    )


def _unfinished_reason(result: UpstreamResult) -> str:
    return "pause" if any(each.gate.paused for each in result.simulated_gates) else "concurrency"


def _find_bottleneck(result: UpstreamResult, simulation: BatchSimulation) -> str | None:
    """Find the limit that alone would have delayed the items longest, else what they waited for longest."""
    batch, receipt = simulation.batch, result.receipt
    call_s = max(each.call_duration_s for each in result.simulated_gates)
    delay_s = (result.finished_at or 0.0) - simulation.began_at - call_s
    if delay_s < _NEGLIGIBLE_WAIT_S:
        return None
    lower_bounds = [
        (seconds, _rate_label(rate)) for each in result.simulated_gates for seconds, rate in each.min_durations_s()
    ]
    if batch.rate is not None:
        lower_bounds.append(
            ((simulation.rate_units_used - batch.rate.burst) / batch.rate.per_second, _rate_label(batch.rate))
        )
    grants = sum(each.grant_count for each in result.simulated_gates)
    cap = min(
        batch.max_concurrency or inf,
        concurrency_cap_of(batch) or inf,
        sum(_gate_concurrency_limit(each, batch) for each in result.simulated_gates),
    )
    lower_bounds.append(((grants / cap - 1) * call_s, "concurrency"))
    seconds, name = max(lower_bounds)
    if seconds >= delay_s / 2:
        return name
    waits = [
        (receipt.rate_wait_s, "header"),
        (receipt.queue_s + simulation.semaphore_wait_s, "concurrency"),
        (receipt.pause_s, "pause"),
    ]
    seconds, name = max(waits)
    return name if seconds >= _NEGLIGIBLE_WAIT_S else None


def _gate_concurrency_limit(simulated_gate: SimulatedGate, batch: Batch) -> float:
    gate = simulated_gate.gate
    return min(gate.limit, gate.adaptive_limit) if lane_of(batch) is Lane.ADAPTIVE else gate.limit


def _rate_label(rate: Rate) -> str:
    return f"{rate.limit:.15g}/{format_duration(rate.per_s)}"
