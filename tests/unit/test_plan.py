"""A plan looks at what is there and touches nothing; what it says of windows, pauses and items that cannot be sent."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Struct

from paceline.batch.plan import Bottleneck, Plan, plan_batch
from paceline.model import Batch, Item, Priority, Rate, Strategy, Tenant
from support.in_memory_upstream import InMemoryUpstream, in_memory_service, items, respond_with, run_batch
from support.virtual_clock import virtual_time


def seen(part: Any, known: dict[int, int]) -> Any:
    """Everything that can be reached from here, as values; the same object is the same number each time."""
    if part is None or isinstance(part, bool | int | float | str | bytes | type):
        return part
    if id(part) in known:
        return known[id(part)]
    known[id(part)] = len(known)
    if isinstance(part, list | tuple | deque):
        return [seen(each, known) for each in part]
    if isinstance(part, set | frozenset):
        return sorted(str(seen(each, dict(known))) for each in part)
    if isinstance(part, dict):
        return [(seen(key, known), seen(value, known)) for key, value in part.items()]
    names = [name for kind in type(part).__mro__ for name in getattr(kind, "__slots__", ())]
    names += list(getattr(part, "__dict__", {}))
    if isinstance(part, Struct):
        names = list(part.__struct_fields__)
    if not names or isinstance(part, Callable | asyncio.Future):  # type: ignore[arg-type] # it is a runtime check
        return repr(part)
    return type(part).__name__, [(name, seen(getattr(part, name, None), known)) for name in names]


@virtual_time
async def test_a_plan_leaves_no_trace_in_a_gate_at_work():
    policy: dict[str, Any] = {"rate": [{"limit": 8, "per": "1s"}, {"limit": 60, "per": "10s"}], "partition": "path:1"}
    told = ("ratelimit-limit", "50"), ("ratelimit-remaining", "30"), ("ratelimit-reset", "9")
    upstream = InMemoryUpstream(respond_with(429, ("retry-after", "1")), *[respond_with(200, *told, after_s=0.3)] * 200)
    with in_memory_service(upstream, **policy) as service:
        under_way = [
            asyncio.create_task(run_batch(service, Batch(items(30), priority=priority, max_concurrency=cap)))
            for priority, cap in ((Priority.NORMAL, None), (Priority.BULK, 3), (Priority.INTERACTIVE, None))
        ]
        await asyncio.sleep(2.2)
        gate = next(iter(service.registry)).async_gate.gate
        assert gate.queued
        assert gate.in_flight
        batch = Batch(items(100), max_concurrency=4)
        before = seen(gate, {})
        plan = await plan_batch(service.registry, batch)
        assert seen(gate, {}) == before
        assert plan.finish_in_ms
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def planned(batch: Batch, **policy: Any) -> Plan:
    with in_memory_service(InMemoryUpstream(), **policy) as service:
        return await plan_batch(service.registry, batch)


ONE_PER_S = {"limit": 10, "per": "1s", "burst": 1}
IN_BULK = {"limit": 100, "per": "1m"}


@pytest.mark.parametrize(
    ("policy", "batch", "window", "finish_s"),
    [
        ({}, Batch(items(20)), None, 0.1),
        ({"rate": [ONE_PER_S]}, Batch(items(1)), None, 0.1),
        ({"rate": [ONE_PER_S]}, Batch(items(21)), "10/1s", 2.1),
        ({"rate": [{"limit": 100, "per": "1s"}]}, Batch(items(100)), "concurrency", 0.5),
        ({"rate": [ONE_PER_S, IN_BULK]}, Batch(items(90)), "10/1s", 9.0),
        ({"rate": [ONE_PER_S, IN_BULK]}, Batch(items(150)), "100/1m", 65.1),
        ({"concurrency": {"limit": 5}}, Batch(items(50)), "concurrency", 1.0),
        ({"concurrency": {"limit": 50}}, Batch(items(50), max_concurrency=5), "concurrency", 1.0),
        ({"concurrency": {"limit": 50}}, Batch(items(50), rate=Rate(20, 1.0, 1)), "20/1s", 2.55),
        ({"rate": [ONE_PER_S]}, Batch(items(41), strategy=Strategy.BOUNDED), "10/1s", 4.1),
        ({}, Batch(items(100), strategy=Strategy.BOUNDED, max_concurrency=10), "concurrency", 1.0),
        ({}, Batch(items(10), strategy=Strategy.SEQUENTIAL), None, 1.0),
        (
            {"rate": [{"limit": 100, "per": "1s"}, {"limit": 500, "per": "1s", "unit": "tokens"}]},
            Batch(items(50, cost={"tokens": 100})),
            "500/1s",
            9.5,
        ),
    ],
)
@virtual_time
async def test_the_window_that_binds_is_named(
    policy: dict[str, Any], batch: Batch, window: str | None, finish_s: float
):
    plan = await planned(batch, **policy)
    assert plan.finish_in_ms == pytest.approx(1000 * finish_s, rel=0.08)
    assert plan.binding == (None if window is None else Bottleneck("api", window))
    assert plan.per_upstream[0].window == window


@virtual_time
async def test_of_several_upstreams_the_last_one_binds():
    upstreams = {
        "api": {"base_url": "https://api.example", "rate": [ONE_PER_S]},
        "slow": {"base_url": "https://slow.example", "rate": [{"limit": 1, "per": "1s"}]},
    }
    batch = Batch([*items(20), *(Item(upstream="slow", path="/") for _ in range(5))])
    with in_memory_service(InMemoryUpstream(), upstreams=upstreams) as service:
        plan = await plan_batch(service.registry, batch)
    assert plan.binding == Bottleneck("slow", "1/1s")
    assert {row.upstream: row.items for row in plan.per_upstream} == {"api": 20, "slow": 5}
    assert plan.finish_in_ms == plan.per_upstream[1].finish_in_ms


@virtual_time
async def test_a_throttle_pause_counts_and_an_operator_s_pause_has_no_end():
    with in_memory_service(InMemoryUpstream(respond_with(429, ("retry-after", "20")))) as service:
        waiting = asyncio.create_task(run_batch(service, Batch(items())))
        await asyncio.sleep(1)
        plan = await plan_batch(service.registry, Batch(items()))
        assert plan.finish_in_ms == pytest.approx(19_200, abs=200)
        assert plan.binding == Bottleneck("api", "pause")
        await waiting
        service.registry.get("api").async_gate.set_paused(True)
        plan = await plan_batch(service.registry, Batch(items(3)))
    assert plan.finish_in_ms is None
    assert plan.binding == Bottleneck("api", "pause")
    assert plan.misses_deadline == 3


@virtual_time
async def test_what_would_never_be_sent_is_counted_apart():
    batch = Batch(
        [
            Item(upstream="api", path="/", id="ok"),
            Item(upstream="nobody", path="/"),
            Item(upstream="api", path="/", id="dear", cost=11),
            Item(upstream="api", path="/", id="after", depends_on=["dear"]),
            Item(upstream="api", path="/", depends_on=["after", "ok"]),
        ]
    )
    plan = await planned(batch, rate=[ONE_PER_S])
    assert plan.rejected == 4
    assert (plan.per_upstream[0].items, plan.per_upstream[0].rejected) == (4, 3)
    assert plan.finish_in_ms == 100.0
    assert plan.misses_deadline == 0


@virtual_time
async def test_a_halting_batch_ends_at_the_first_item_that_cannot_be_sent():
    plan = await planned(Batch([*items(3), Item(upstream="nobody", path="/")], halt=True))
    assert plan.rejected == 4
    assert plan.finish_in_ms == 0.0


@virtual_time
async def test_calls_are_taken_to_last_as_long_as_they_did():
    with in_memory_service(InMemoryUpstream(after_s=2.0), concurrency={"limit": 10}) as service:
        await run_batch(service, Batch(items(10)))
        plan = await plan_batch(service.registry, Batch(items(20)))
        assert plan.per_upstream[0].call_ms == 2000.0
        assert plan.finish_in_ms == 4000.0
        service.registry.get("api").reset()
        plan = await plan_batch(service.registry, Batch(items(20)))
        assert plan.per_upstream[0].call_ms == 100.0


@virtual_time
async def test_a_tenant_s_weight_counts_against_who_waits_already():
    with in_memory_service(InMemoryUpstream(), rate=[{"limit": 100, "per": "1s", "burst": 1}]) as service:
        waiting = asyncio.create_task(run_batch(service, Batch(items(600), tenant=Tenant("other"))))
        await asyncio.sleep(0.5)
        batch = Batch(items(100), tenant=Tenant("heavy", weight=3.0))
        heavy = await plan_batch(service.registry, batch)
        light = await plan_batch(service.registry, Batch(items(100), tenant=Tenant("light")))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert heavy.finish_in_ms == pytest.approx(1430, rel=0.05)
    assert light.finish_in_ms == pytest.approx(2100, rel=0.05)


async def test_the_loop_gets_its_turns_while_a_plan_is_made():
    stalls_s: list[float] = []

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            stalls_s.append(time.perf_counter() - before)

    with in_memory_service(InMemoryUpstream(), rate=[{"limit": 5000, "per": "1s"}]) as service:
        watching = asyncio.create_task(watch())
        began_at = time.perf_counter()
        await plan_batch(service.registry, Batch(items(10_000)))
        took_s = time.perf_counter() - began_at
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    # A slice takes 4 ms; what else the machine does may make one longer, never most of them.
    assert sorted(stalls_s)[-len(stalls_s) // 4] < 0.05
    assert len(stalls_s) > took_s / 0.05
