"""The same request, many times, under one strategy after another: what each costs in time and in refusals.

Strategies run one at a time. Before each, the upstream is given time to forget the one before: until every window is
free and no pause stands, so that order changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from paceline.batch.runner import Runner
from paceline.events import AttemptFinished, Event
from paceline.model import Batch, EngineName, Item, ItemRetry, Outcome, OutcomeKind, Rate, Strategy, Tenant, Verdict
from paceline.upstream.registry import Upstream

LONGEST_REST_S = 60.0
"""A window longer than this is not waited for: what one run takes of it is taken from all alike."""
_LOOK_EVERY_S = 0.02


class Comparison(Struct, frozen=True):
    """What to compare: `n` times `item`, which belongs to `upstream`.

    Unpaced, the classic strategies run outside the upstream's windows and try each request once, as they are usually
    written, so that refusals show.
    """

    upstream: Upstream
    item: Item
    n: int
    strategies: Sequence[Strategy]
    engines: Sequence[EngineName]
    max_concurrency: int
    rate: Rate | None
    unpaced: bool
    deadline_s: float
    tenant: Tenant


class Measured(Struct, frozen=True):
    """How one strategy did. Throughput counts successes.

    The percentiles are of the time from the batch's start to an item's success, its wait for its turn included: what
    somebody sees who hands over everything at once, wherever a strategy does its queueing.
    """

    strategy: Strategy
    engine: EngineName
    elapsed_ms: float
    throughput_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    status_counts: dict[str, int]
    outcomes: dict[str, int]
    refusals: int
    """Answers by which the upstream refused an attempt for its rate."""
    attempts: int
    retries: int


async def compare(runner: Runner, comparison: Comparison) -> list[Measured]:
    """Run every strategy on every engine, in the order given; `deadline_s` is for each by itself."""
    measured: list[Measured] = []
    for engine in comparison.engines:
        for strategy in comparison.strategies:
            await _rest(comparison, after_a_run=bool(measured))
            measured.append(await _measure(runner, comparison, strategy, engine))
    return measured


async def _measure(runner: Runner, comparison: Comparison, strategy: Strategy, engine: EngineName) -> Measured:
    batch = _batch(comparison, strategy, engine)
    statuses: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    times: list[float] = []
    refusals = 0

    def note(outcome: Outcome) -> None:
        if outcome.outcome is OutcomeKind.SUCCESS:
            times.append(outcome.timing.start_ms + outcome.timing.total_ms)
        outcomes[outcome.outcome.value] += 1
        if outcome.status is not None:
            statuses[str(outcome.status)] += 1

    def count_refusals(event: Event) -> None:
        nonlocal refusals
        if isinstance(event, AttemptFinished) and event.verdict is Verdict.THROTTLED:
            refusals += 1

    run = runner.open(batch, also=count_refusals)
    summary = await runner.run(batch, note, run)
    elapsed_s = run.elapsed_s
    times.sort()
    return Measured(
        strategy=strategy,
        engine=engine,
        elapsed_ms=round(elapsed_s * 1000, 3),
        throughput_per_s=round(summary.succeeded / elapsed_s, 3),
        p50_ms=percentile(times, 50),
        p95_ms=percentile(times, 95),
        p99_ms=percentile(times, 99),
        status_counts=dict(sorted(statuses.items())),
        outcomes=dict(outcomes),
        refusals=refusals,
        attempts=summary.attempts,
        retries=summary.retries,
    )


def _batch(comparison: Comparison, strategy: Strategy, engine: EngineName) -> Batch:
    unpaced = comparison.unpaced and strategy is not Strategy.ADAPTIVE
    item = replace(comparison.item, retry=ItemRetry(attempts=1)) if unpaced else comparison.item
    capped = strategy in (Strategy.BOUNDED, Strategy.TOKEN_BUCKET)
    return Batch(
        items=[item] * comparison.n,
        strategy=strategy,
        max_concurrency=comparison.max_concurrency if capped else None,
        rate=comparison.rate if strategy is Strategy.TOKEN_BUCKET else None,
        deadline_s=comparison.deadline_s,
        tenant=comparison.tenant,
        unpaced=unpaced,
        engine=engine,
    )


async def _rest(comparison: Comparison, *, after_a_run: bool) -> None:
    """Let the upstream forget what came before, as far as that can be waited for."""
    gate = comparison.upstream.admitter.gate
    windows_s = [rate.per_s for rate in gate.budgets.rates if rate.per_s <= LONGEST_REST_S]
    longest_s = max(windows_s, default=0.0)
    now = time.perf_counter()
    if after_a_run and comparison.unpaced:
        # Our own windows know nothing of a run outside them; the upstream's do.
        await asyncio.sleep(longest_s + gate.budgets.transit_s)
    give_up_at = (
        now + min(LONGEST_REST_S, 2 * longest_s + max(0.0, gate.budgets.paused_until - now)) + gate.budgets.transit_s
    )
    while not gate.idle(now := time.perf_counter(), LONGEST_REST_S) and now < give_up_at:  # noqa: ASYNC110 - only time does
        await asyncio.sleep(_LOOK_EVERY_S)


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile of ordered values; None of none."""
    return round(ordered[max(0, ceil(len(ordered) * percent / 100) - 1)], 3) if ordered else None
