"""The same requests under one strategy after another, each measured.

A latency is what somebody who hands over all the requests at once sees: from the batch's start to a request's success,
its wait for its turn included, so that strategies which queue inside and strategies which queue outside are measured
alike. Between two of them everything is waited for that the first may have left behind, so that order changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from math import ceil, inf, log2

from msgspec import UNSET, Struct
from msgspec.structs import replace

from paceline.batch.prepare import Preparation
from paceline.batch.runner import Runner
from paceline.errors import InvalidRequest
from paceline.events import AttemptFinished, Event
from paceline.model import Batch, EngineName, Item, Outcome, OutcomeKind, Rate, Strategy, Tenant, Verdict
from paceline.upstream.registry import Registry, Upstream

ORDER = (Strategy.SEQUENTIAL, Strategy.CONCURRENT, Strategy.BOUNDED, Strategy.TOKEN_BUCKET, Strategy.ADAPTIVE)
"""From the plainest to the one that knows most."""

_CAPPED = (Strategy.BOUNDED, Strategy.TOKEN_BUCKET, Strategy.ADAPTIVE)
_RATED = (Strategy.TOKEN_BUCKET, Strategy.ADAPTIVE)
_STEPS = 4
"""Histogram buckets for each doubling."""
_POLL_S = 0.02
_ALMOST = 1e-6


class Comparison(Struct, frozen=True):
    """What to compare; checked for shape, not yet against an upstream."""

    item: Item
    n: int = 200
    strategies: Sequence[Strategy] | None = None
    """All of them unless given; without a rate, given or declared, all but `token_bucket`."""
    engines: Sequence[EngineName] | None = None
    """The upstream's own unless given."""
    max_concurrency: int | None = None
    rate: Rate | None = None
    """For `token_bucket`, which has the upstream's first declared window of requests unless given, and `adaptive`."""
    unpaced: bool = False
    """The classic four outside the declared windows; only where the upstream allows it."""
    deadline_s: float = 900.0
    """For each strategy."""
    tenant: Tenant = Tenant()


class Bucket(Struct, frozen=True):
    """How many successes came within `le_ms` and not within the bucket before it."""

    le_ms: float
    count: int


class Measured(Struct, frozen=True):
    """One strategy's run."""

    strategy: Strategy
    engine: EngineName
    unpaced: bool
    elapsed_ms: float
    throughput_per_s: float
    """Successes a second."""
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    succeeded: int
    failed: int
    rejected: int
    refused: int
    """Attempts that the upstream refused for their rate."""
    attempts: int
    retries: int
    statuses: dict[str, int]
    """Requests by their last status; by the error's code where none came."""
    histogram: list[Bucket]
    """The successes' latencies; each bucket ends a fixed ratio above the one before."""


class Comparing:
    """A comparison that was found to be possible."""

    def __init__(self, registry: Registry, runner: Runner, wanted: Comparison) -> None:
        """
        Raises:
            Rejected: the request cannot be sent, or the upstream does not allow it to go unpaced.
        """
        self._runner, self._wanted = runner, wanted
        whole = Batch(items=(), tenant=wanted.tenant, deadline_s=wanted.deadline_s)
        self._item = replace(wanted.item, id=UNSET)
        upstream, _ = Preparation(registry, whole, inf).request(self._item)
        if wanted.unpaced and not upstream.policy.allow_unpaced:
            raise InvalidRequest(
                f"the upstream {upstream.name!r} does not allow unpaced calls; "
                "set allow_unpaced: true on it, or leave unpaced out"
            )
        self._upstream: Upstream = upstream
        self._rate = wanted.rate or _declared_rate(upstream)
        self.strategies = wanted.strategies or [
            each for each in ORDER if self._rate or each is not Strategy.TOKEN_BUCKET
        ]
        if self._rate is None and Strategy.TOKEN_BUCKET in self.strategies:
            raise InvalidRequest("token_bucket needs a rate; add one, or leave that strategy out")
        self.engines: Sequence[EngineName] = wanted.engines or [upstream.policy.engine]

    async def run(self) -> AsyncIterator[Measured]:
        """Each strategy's figures, as it ends."""
        first = True
        for engine in self.engines:
            for strategy in self.strategies:
                if not first:
                    await self._all_is_free()
                first = False
                yield await self._measure(strategy, engine)

    async def _measure(self, strategy: Strategy, engine: EngineName) -> Measured:
        wanted = self._wanted
        rate = self._rate if strategy is Strategy.TOKEN_BUCKET else wanted.rate
        batch = Batch(
            items=[self._item] * wanted.n,
            strategy=strategy,
            max_concurrency=wanted.max_concurrency if strategy in _CAPPED else None,
            rate=rate if strategy in _RATED else None,
            deadline_s=wanted.deadline_s,
            tenant=wanted.tenant,
            unpaced=wanted.unpaced and strategy is not Strategy.ADAPTIVE,
            engine=engine,
        )
        refused = 0
        outcomes: list[Outcome] = []

        def note(event: Event) -> None:
            nonlocal refused
            if isinstance(event, AttemptFinished) and event.verdict is Verdict.THROTTLED:
                refused += 1

        run = self._runner.open(batch, note)
        self._ended_unpaced = batch.unpaced
        summary = await self._runner.run(batch, outcomes.append, run)
        elapsed_s = run.elapsed_s
        self._ended_at = time.perf_counter()
        self._told_to_wait_s = max((_retry_after_s(outcome) for outcome in outcomes), default=0.0)
        latencies = sorted(
            outcome.timing.start_ms + outcome.timing.total_ms
            for outcome in outcomes
            if outcome.outcome is OutcomeKind.SUCCESS
        )
        return Measured(
            strategy=strategy,
            engine=engine,
            unpaced=batch.unpaced,
            elapsed_ms=round(elapsed_s * 1000, 3),
            throughput_per_s=round(summary.succeeded / elapsed_s, 3) if elapsed_s > 0 else 0.0,
            p50_ms=quantile(latencies, 0.50),
            p95_ms=quantile(latencies, 0.95),
            p99_ms=quantile(latencies, 0.99),
            succeeded=summary.succeeded,
            failed=summary.failed,
            rejected=summary.rejected,
            refused=refused,
            attempts=summary.attempts,
            retries=summary.retries,
            statuses=_statuses(outcomes),
            histogram=histogram(latencies),
        )

    async def _all_is_free(self) -> None:
        """Wait until every window is free, nothing is paused, and the upstream has forgotten an unpaced run.

        Others may be using the upstream: after two of its longest windows it goes on all the same.
        """
        gate = self._upstream.admitter.gate
        longest_s = max((window.rate.per_s for window in gate.windows), default=0.0)
        if self._rate is not None:
            longest_s = max(longest_s, self._rate.per_s)
        free_at = self._ended_at + (longest_s + gate.transit_s if self._ended_unpaced else 0.0)
        free_at = max(free_at, self._ended_at + min(self._told_to_wait_s, gate.pause.max_pause_s))
        await asyncio.sleep(max(0.0, free_at - time.perf_counter()))
        give_up = time.perf_counter() + 2 * longest_s + 1
        while (now := time.perf_counter()) < give_up:
            busy = any(window.remaining(now, gate.transit_s) < window.rate.limit - _ALMOST for window in gate.windows)
            if not busy and gate.pause.blocked_until(now) <= now:
                return
            await asyncio.sleep(_POLL_S)


def quantile(ordered: Sequence[float], q: float) -> float | None:
    """The smallest of the values that at least this share of them does not exceed; None of none."""
    return round(ordered[max(0, ceil(q * len(ordered)) - 1)], 3) if ordered else None


def histogram(latencies_ms: Sequence[float]) -> list[Bucket]:
    """Counts in logarithmic buckets, four to each doubling, without the empty ones at both ends."""
    counts: dict[int, int] = {}
    for latency_ms in latencies_ms:
        step = ceil(_STEPS * log2(max(latency_ms, 0.001)))
        counts[step] = counts.get(step, 0) + 1
    if not counts:
        return []
    return [Bucket(round(2 ** (step / _STEPS), 3), counts.get(step, 0)) for step in range(min(counts), max(counts) + 1)]


def _declared_rate(upstream: Upstream) -> Rate | None:
    """The first declared window of requests, as the token bucket's library takes one: all of it at once."""
    for rate in upstream.policy.rates():
        if rate.unit == "requests":
            return Rate(rate.limit, rate.per_s, rate.limit)
    return None


def _statuses(outcomes: Sequence[Outcome]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for outcome in outcomes:
        key = str(outcome.status) if outcome.status is not None else outcome.error.code if outcome.error else "none"
        counts[key] = counts.get(key, 0) + 1
    return dict(sorted(counts.items()))


def _retry_after_s(outcome: Outcome) -> float:
    error = outcome.error
    return 0.0 if error is None or error.retry_after_ms is None else error.retry_after_ms / 1000
