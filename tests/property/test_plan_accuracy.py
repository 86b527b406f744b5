"""What is forecast is what then happens, where calls take as long as was assumed: whole batches in virtual time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from paceline.app import Service
from paceline.batch.plan import Plan, plan_batch
from paceline.model import Batch, Item, Priority, Rate, Strategy, Tenant
from support.hypothesis_profiles import examples
from support.in_memory_upstream import InMemoryUpstream, in_memory_service, run_batch
from support.virtual_clock import virtual_time

CALL_S = 0.1
RATES = st.lists(
    st.builds(
        lambda limit, per, burst: {"limit": limit, "per": per, "burst": min(burst, limit)},
        st.integers(1, 60),
        st.sampled_from(["1s", "2s", "10s"]),
        st.integers(1, 60),
    ),
    max_size=2,
)
POLICIES = st.fixed_dictionaries(
    {"rate": RATES},
    optional={
        "concurrency": st.builds(lambda limit: {"limit": limit}, st.integers(1, 30)),
        "partition": st.sampled_from(["upstream", "path:1"]),
    },
)
COSTS = st.sampled_from([1, 1, 1, 2, 3])


def declared(*policies: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: {"base_url": f"https://{name}.example", **policy} for name, policy in zip("abc", policies, strict=False)
    }


async def taken_s(service: Service, batch: Batch) -> float:
    began_at = time.perf_counter()
    await run_batch(service, batch)
    return time.perf_counter() - began_at


async def told_and_taken(service: Service, batch: Batch) -> tuple[Plan, float]:
    plan = await plan_batch(service.registry, batch)
    return plan, await taken_s(service, batch)


def close(plan: Plan, seconds: float, within_s: float = 0.03) -> None:
    """A timer of the real gate is a millisecond late at most, a few times over where constraints meet."""
    assert plan.finish_in_ms is not None
    assert plan.finish_in_ms / 1000 == pytest.approx(seconds, rel=0.01, abs=within_s)


@examples(20)
@given(
    policies=st.lists(POLICIES, min_size=1, max_size=3),
    strategy=st.sampled_from([each for each in Strategy if each is not Strategy.TOKEN_BUCKET]),
    cap=st.none() | st.integers(1, 12),
    own=st.none() | st.builds(Rate, st.integers(3, 40), st.just(1.0), st.just(3)),
    priority=st.sampled_from(Priority),
    costs=st.lists(COSTS, min_size=1, max_size=90),
)
@virtual_time
async def test_a_batch_takes_what_its_plan_said(
    policies: list[dict[str, Any]],
    strategy: Strategy,
    cap: int | None,
    own: Rate | None,
    priority: Priority,
    costs: list[int],
):
    if len(policies) > 1:
        own = None  # several gates that wait for one rate go in no order that could be foretold
    names = list(declared(*policies))
    batch = Batch(
        items=[
            Item(upstream=names[index % len(names)], path=f"/{index % 3}", cost=cost)
            for index, cost in enumerate(costs)
        ],
        strategy=strategy,
        max_concurrency=cap if strategy not in (Strategy.SEQUENTIAL, Strategy.CONCURRENT) else None,
        rate=own if strategy is Strategy.ADAPTIVE else None,
        priority=priority,
        deadline_s=100_000,
    )
    with in_memory_service(InMemoryUpstream(after_s=CALL_S), upstreams=declared(*policies)) as service:
        plan, seconds = await told_and_taken(service, batch)
        close(plan, seconds)


@pytest.mark.parametrize("costs", [[1] * 60, [1, 2, 4] * 20])
@virtual_time
async def test_a_token_bucket_s_batch_takes_what_its_plan_said(costs: list[int]):
    # Powers of two: what aiolimiter adds and takes off is exact, else its timer may spin where time stands still.
    policies = [{"concurrency": {"limit": 4}}, {"rate": [{"limit": 16, "per": "1s"}]}]
    batch = Batch(
        [Item(upstream="ab"[index % 2], path="/", cost=cost) for index, cost in enumerate(costs)],
        strategy=Strategy.TOKEN_BUCKET,
        rate=Rate(16, 1.0, 4),
        max_concurrency=8,
        deadline_s=1000,
    )
    with in_memory_service(InMemoryUpstream(after_s=0.125), upstreams=declared(*policies)) as service:
        for upstream in service.registry:
            upstream.async_gate.mean_latency.add(0.125, reused=False)
        plan, seconds = await told_and_taken(service, batch)
        close(plan, seconds)
        assert plan.binding is not None
        assert plan.binding.window == "16/1s"


# Moments are kept apart, and one call more or less is no mistake: of two things at one moment either may come first.
@examples(12)
@given(
    policy=POLICIES,
    earlier=st.lists(
        st.tuples(
            st.integers(1, 60),
            st.sampled_from(Priority),
            st.sampled_from(["one", "two"]),
            st.integers(2, 400).map(lambda tenths: tenths / 10 + 0.061),
        ),
        max_size=4,
    ),
    later_s=st.integers(0, 15).map(lambda tenths: tenths / 10 + 0.037),
    count=st.integers(1, 60),
)
@virtual_time
async def test_what_is_under_way_already_counts(
    policy: dict[str, Any], earlier: list[tuple[int, Priority, str, float]], later_s: float, count: int
):
    with in_memory_service(InMemoryUpstream(after_s=CALL_S), upstreams=declared(policy)) as service:
        under_way = [
            asyncio.create_task(
                run_batch(
                    service,
                    Batch(
                        [Item(upstream="a", path=f"/{index % 2}") for index in range(size)],
                        priority=priority,
                        tenant=Tenant(name),
                        deadline_s=deadline_s,
                    ),
                )
            )
            for size, priority, name, deadline_s in earlier
        ]
        await asyncio.sleep(later_s)
        batch = Batch([Item(upstream="a", path=f"/{index % 3}") for index in range(count)], deadline_s=100_000)
        plan, seconds = await told_and_taken(service, batch)
        close(plan, seconds, within_s=1.05 * CALL_S)
        await asyncio.gather(*under_way)


@examples(15)
@example([[], [], [], [], [], [], [], [], [], [0, 3], [], [], [3], [9]], Strategy.ADAPTIVE)
@given(
    needs=st.lists(st.lists(st.integers(0, 39), max_size=3), min_size=1, max_size=40),
    strategy=st.sampled_from([Strategy.ADAPTIVE, Strategy.BOUNDED, Strategy.SEQUENTIAL]),
)
@virtual_time
async def test_dependent_items_wait_for_what_they_need(needs: list[list[int]], strategy: Strategy):
    batch = Batch(
        [
            Item(upstream="a", path="/", depends_on=[str(need) for need in set(wanted) if need < index])
            for index, wanted in enumerate(needs)
        ],
        strategy=strategy,
        deadline_s=100_000,
    )
    with in_memory_service(
        InMemoryUpstream(after_s=CALL_S), upstreams=declared({"concurrency": {"limit": 3}})
    ) as service:
        plan, seconds = await told_and_taken(service, batch)
        close(plan, seconds)


@examples(10)
@given(limit=st.integers(2, 40), count=st.integers(1, 120), deadline_s=st.floats(0.3, 6.0))
@virtual_time
async def test_who_misses_the_deadline_is_counted_to_within_one(limit: int, count: int, deadline_s: float):
    policy = {"rate": [{"limit": limit, "per": "1s", "burst": 1}], "concurrency": {"limit": 50}}
    batch = Batch([Item(upstream="a", path="/") for _ in range(count)], deadline_s=deadline_s)
    with in_memory_service(InMemoryUpstream(after_s=CALL_S), upstreams=declared(policy)) as service:
        plan = await plan_batch(service.registry, batch)
        outcomes = await run_batch(service, batch)
    missed = sum(outcome.outcome != "success" for outcome in outcomes)
    assert plan.misses_deadline == pytest.approx(missed, abs=1)


@virtual_time
async def test_a_second_plan_says_the_same_as_the_first_and_nothing_was_sent():
    upstream = InMemoryUpstream(after_s=CALL_S)
    with in_memory_service(upstream, upstreams=declared({"rate": [{"limit": 10, "per": "1s"}]})) as service:
        batch = Batch([Item(upstream="a", path="/") for _ in range(50)])
        assert await plan_batch(service.registry, batch) == await plan_batch(service.registry, batch)
    assert upstream.sent == []


@virtual_time
async def test_thousands_of_items_over_several_upstreams():
    policies = (
        {"rate": [{"limit": 500, "per": "1s", "burst": 1}]},
        {"rate": [{"limit": 300, "per": "1s"}, {"limit": 1_500, "per": "1m"}]},
        {"concurrency": {"limit": 30}},
    )
    batch = Batch([Item(upstream="abc"[index % 3], path="/") for index in range(5_000)], deadline_s=1000)
    with in_memory_service(InMemoryUpstream(after_s=CALL_S), upstreams=declared(*policies)) as service:
        await run_batch(service, Batch([Item(upstream=name, path="/") for name in "abc"]))
        plan, seconds = await told_and_taken(service, batch)
    assert plan.binding is not None
    assert (plan.binding.upstream, plan.binding.window) == ("b", "1500/1m")
    close(plan, seconds)
