"""A comparison: the same request, many times, under one strategy after another, with the time and throttles of each.

Strategies run one at a time. Each starts when every window of the upstream is free and no pause holds, so that the
order of the strategies changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from msgspec import Struct
from msgspec.structs import replace
from pydantic import with_config

from paceline.batch.input_errors import FieldError
from paceline.batch.runner import BatchRunner
from paceline.events import AttemptFinished, Event
from paceline.model import Batch, EngineName, Item, ItemRetry, Outcome, OutcomeKind, Rate, Strategy, Tenant, Verdict
from paceline.upstream.upstream import Upstream

MAX_IDLE_WAIT_S = 60.0
"""Seconds. A longer window is not waited for: what one run takes of it is missing for all alike."""
_POLL_INTERVAL_S = 0.02


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


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class StrategyResult:
    """The result of one strategy on one engine.

    The percentiles are of the time from the start of the batch to an item's success, its waits included: what a caller
    sees that hands over everything at once, wherever a strategy does its queueing.
    """

    strategy: Strategy
    """Strategy that sent the requests."""
    engine: EngineName
    """HTTP library that sent them."""
    elapsed_ms: float
    """Milliseconds from the first request to the last outcome."""
    throughput_per_s: float
    """Successes a second."""
    p50_ms: float | None
    """Median of the milliseconds to an item's success; null if no item succeeded."""
    p95_ms: float | None
    """95th percentile of the same."""
    p99_ms: float | None
    """99th percentile of the same."""
    status_counts: dict[str, int]
    """Items by the status of their last response."""
    outcomes: dict[str, int]
    """Items by outcome."""
    refusals: int
    """Responses by which the upstream refused an attempt for its rate."""
    attempts: int
    """Requests sent, retries included."""
    retries: int
    """Requests that repeated an earlier attempt of the same item."""


async def compare(runner: BatchRunner, comparison: Comparison) -> list[StrategyResult]:
    """Run every strategy on every engine, in the order given; `deadline_s` is for each by itself."""
    results: list[StrategyResult] = []
    for engine in comparison.engines:
        for strategy in comparison.strategies:
            await _wait_until_idle(comparison, after_previous_run=bool(results))
            results.append(await _run_strategy(runner, comparison, strategy, engine))
    return results


async def _run_strategy(
    runner: BatchRunner, comparison: Comparison, strategy: Strategy, engine: EngineName
) -> StrategyResult:
    batch = _build_batch(comparison, strategy, engine)
    statuses: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    completion_times_ms: list[float] = []
    refusals = 0

    def record_outcome(outcome: Outcome) -> None:
        if outcome.outcome is OutcomeKind.SUCCESS:
            completion_times_ms.append(outcome.timing.start_ms + outcome.timing.total_ms)
        outcomes[outcome.outcome.value] += 1
        if outcome.status is not None:
            statuses[str(outcome.status)] += 1

    def count_refusals(event: Event) -> None:
        nonlocal refusals
        if isinstance(event, AttemptFinished) and event.verdict is Verdict.THROTTLED:
            refusals += 1

    run = runner.open_run(batch, extra_listener=count_refusals)
    summary = await runner.run(batch, record_outcome, run)
    elapsed_s = run.elapsed_s
    completion_times_ms.sort()
    return StrategyResult(
        strategy=strategy,
        engine=engine,
        elapsed_ms=round(elapsed_s * 1000, 3),
        throughput_per_s=round(summary.succeeded / elapsed_s, 3),
        p50_ms=percentile(completion_times_ms, 50),
        p95_ms=percentile(completion_times_ms, 95),
        p99_ms=percentile(completion_times_ms, 99),
        status_counts=dict(sorted(statuses.items())),
        outcomes=dict(outcomes),
        refusals=refusals,
        attempts=summary.attempts,
        retries=summary.retries,
    )


def _build_batch(comparison: Comparison, strategy: Strategy, engine: EngineName) -> Batch:
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


async def _wait_until_idle(comparison: Comparison, *, after_previous_run: bool) -> None:
    """Wait until the previous run no longer counts against any window, for at most twice the longest window."""
    gate = comparison.upstream.async_gate.gate
    windows_s = [rate.per_s for rate in gate.budgets.rates if rate.per_s <= MAX_IDLE_WAIT_S]
    longest_window_s = max(windows_s, default=0.0)
    now = time.perf_counter()
    if after_previous_run and comparison.unpaced:
        # An unpaced run does not count in our windows, but it does in the upstream's.
        await asyncio.sleep(longest_window_s + gate.budgets.transit_s)
    give_up_at = (
        now
        + min(MAX_IDLE_WAIT_S, 2 * longest_window_s + max(0.0, gate.budgets.paused_until - now))
        + gate.budgets.transit_s
    )
    while not gate.is_idle(now := time.perf_counter(), MAX_IDLE_WAIT_S) and now < give_up_at:  # noqa: ASYNC110 - only time does
        await asyncio.sleep(_POLL_INTERVAL_S)


def missing_rate() -> FieldError:
    """The error of a comparison under token_bucket where no rate is known."""
    return FieldError("rate", "is required by token_bucket, as the upstream declares none; add it")


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile of ordered values; None if there are none."""
    return round(ordered[max(0, ceil(len(ordered) * percent / 100) - 1)], 3) if ordered else None
