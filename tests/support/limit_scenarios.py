"""Upstreams of every kind an adaptive limit meets, each a seeded simulation; run as a script it prints their figures.

`PYTHONPATH=tests:. python -m support.limit_scenarios` prints the table of docs/decisions/0013-adaptive-concurrency.md.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, inf
from statistics import median

from paceline.resilience.adaptive_limit import AdaptiveLimit
from support.queueing_model import CallerTrace, FixedLimit, Limit, QueueingServer, ServiceTime, simulate

REFERENCE_LIMIT = 200
Draw = Callable[[random.Random], ServiceTime]


@dataclass(frozen=True)
class Scenario:
    """One upstream. Judged over [since, until), against its capacity or, where it has none, a limit of `MOST`."""

    name: str
    slots: float
    service: Draw
    until: float = 45.0
    since: float = 20.0
    change_at: float = inf
    slots_after: int = 0
    pause: tuple[float, float] | None = None
    network_s: float = 0.0005

    def run(self, limit: Limit, seed: int) -> CallerTrace:
        server = QueueingServer(self.slots, self.service(random.Random(seed)), self.pause, self.network_s)

        def change(server: QueueingServer, now: float) -> None:
            server.resize(self.slots_after, now)

        changes = [(self.change_at, change)] if self.change_at < inf else []
        return simulate(limit, server, self.until, changes=changes)

    def unloaded_s(self) -> float:
        """The median latency of a request that meets no other, at the end."""
        service = self.service(random.Random(0))
        return median(service(self.until) for _ in range(2001)) + 2 * self.network_s

    @cache  # noqa: B019 - the scenarios live as long as the process
    def max_throughput_per_s(self) -> float:
        """What the upstream gives to a caller who always has `MOST` in flight."""
        return self.run(FixedLimit(REFERENCE_LIMIT), 100).rate(self.since, self.until)


def even(mean_s: float, spread: float = 0.1) -> Draw:
    return lambda draw: lambda now: mean_s * draw.uniform(1 - spread, 1 + spread)


def exponential(mean_s: float) -> Draw:
    return lambda draw: lambda now: draw.expovariate(1 / mean_s)


def lognormal(mean_s: float, sigma: float) -> Draw:
    return lambda draw: lambda now: mean_s * exp(draw.gauss(0, sigma) - sigma * sigma / 2)


def uniform(low_s: float, high_s: float) -> Draw:
    return lambda draw: lambda now: draw.uniform(low_s, high_s)


def either(share: float, fast_s: float, slow_s: float) -> Draw:
    return lambda draw: lambda now: fast_s if draw.random() < share else slow_s


def shifting(fast_s: float, slow_s: float) -> Draw:
    """The share of fast answers changes every seven seconds."""
    return lambda draw: lambda now: fast_s if draw.random() < (0.9 if now // 7 % 2 else 0.4) else slow_s


def warming(draw: random.Random) -> ServiceTime:
    return lambda now: (0.02 + 0.4 * exp(-now / 8)) * draw.uniform(0.9, 1.1)


def ageing(draw: random.Random) -> ServiceTime:
    return lambda now: 0.02 * (1 + now / 10) * draw.uniform(0.9, 1.1)


def slower_after_30_s(draw: random.Random) -> ServiceTime:
    return lambda now: (0.02 if now < 30 else 0.04) * draw.uniform(0.9, 1.1)


TWELVE_SLOTS = [
    Scenario("12 slots, even 20 ms", 12, even(0.02)),
    Scenario("12 slots, lognormal 20 ms", 12, lognormal(0.02, 0.5)),
    Scenario("12 slots, exponential 20 ms", 12, exponential(0.02)),
    Scenario("12 slots, even 20 ms, network 5 ms each way", 12, even(0.02), network_s=0.005),
    Scenario("12 slots, 5 ms, one in ten 200 ms", 12, either(0.9, 0.005, 0.2)),
    Scenario("12 slots, pauses of 0.4 s every 3 s", 12, even(0.02), pause=(3.0, 0.4)),
]
OTHER_SIZES = [
    Scenario("1 slot, even 20 ms", 1, even(0.02)),
    Scenario("30 slots, lognormal 3 ms", 30, lognormal(0.003, 0.5), until=15, since=5),
    Scenario("100 slots, lognormal 50 ms", 100, lognormal(0.05, 0.5), until=40),
    Scenario("40 slots, uniform 5 to 30 s", 40, uniform(5, 30), until=3600, since=1200),
]
CAPACITY_CHANGES = [
    Scenario("24 slots, then 12", 24, even(0.02), until=50, since=38, change_at=30, slots_after=12),
    Scenario("12 slots, then 24", 12, even(0.02), until=50, since=38, change_at=30, slots_after=24),
    Scenario("12 slots, then 6", 12, even(0.02), until=50, since=38, change_at=30, slots_after=6),
    Scenario(
        "24 slots, then 12, lognormal", 24, lognormal(0.02, 0.5), until=50, since=38, change_at=30, slots_after=12
    ),
    Scenario(
        "12 slots, then 24, lognormal", 12, lognormal(0.02, 0.5), until=50, since=38, change_at=30, slots_after=24
    ),
    Scenario("12 slots, 20 ms, then 40 ms", 12, slower_after_30_s, until=50, since=38, change_at=30, slots_after=12),
]
UNLIMITED_SLOTS = [
    Scenario("uniform 5 to 30 s", inf, uniform(5, 30), until=3600, since=900),
    Scenario("lognormal 10 s, sigma 0.7", inf, lognormal(10, 0.7), until=3600, since=900),
    Scenario("5 ms, one in ten 200 ms", inf, either(0.9, 0.005, 0.2), until=30, since=15),
    Scenario("5 ms or 200 ms", inf, either(0.5, 0.005, 0.2), until=60, since=30),
    Scenario("5 ms or 200 ms, shares shifting", inf, shifting(0.005, 0.2), until=60, since=30),
    Scenario("5 ms, one in twenty 500 ms", inf, either(0.95, 0.005, 0.5), until=30, since=15),
    Scenario("slow start, 420 ms to 20 ms", inf, warming, until=30, since=15),
    Scenario("slower by the second, 20 ms to 80 ms", inf, ageing, until=30, since=15),
    Scenario("100 slots, pauses of 0.4 s every 3 s", 100, even(0.02), until=30, since=15, pause=(3.0, 0.4)),
    Scenario("100 slots, pauses of 0.1 s every 0.7 s", 100, even(0.02), until=30, since=15, pause=(0.7, 0.1)),
]


@dataclass(frozen=True)
class RunFigures:
    """What one run came to."""

    share: float
    latency: float
    lowest_limit: int
    mean_limit: float
    settling_time_s: float

    @classmethod
    def of(cls, scenario: Scenario, seed: int, make: Callable[[], Limit] = AdaptiveLimit) -> RunFigures:
        run = scenario.run(make(), seed)
        most_per_s, unloaded_s = scenario.max_throughput_per_s(), scenario.unloaded_s()
        followed_s = 0.0
        if scenario.change_at < inf:
            followed_s = run.settling_time_s(scenario.change_at, scenario.until, 0.9 * most_per_s, 1.5 * unloaded_s)
        return cls(
            run.rate(scenario.since, scenario.until) / most_per_s,
            run.median_s(scenario.since, scenario.until) / unloaded_s,
            run.lowest_limit(0.0),
            run.mean_limit(scenario.since),
            followed_s,
        )


def table(scenarios: Sequence[Scenario], seeds: Sequence[int], make: Callable[[], Limit] = AdaptiveLimit) -> str:
    lines = [
        "| upstream | share of its throughput | median latency / unloaded | lowest limit | mean limit | followed |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for scenario in scenarios:
        runs = [RunFigures.of(scenario, seed, make) for seed in seeds]
        columns = [
            " ".join(f"{run.share:.2f}" for run in runs),
            " ".join(f"{run.latency:.2f}" for run in runs) if scenario.slots < inf else "",
            " ".join(str(run.lowest_limit) for run in runs),
            " ".join(f"{run.mean_limit:.0f}" for run in runs),
            " ".join(f"{run.settling_time_s:.1f} s" for run in runs) if scenario.change_at < inf else "",
        ]
        lines.append(f"| {scenario.name} | {' | '.join(columns)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([*TWELVE_SLOTS, *OTHER_SIZES, *CAPACITY_CHANGES, *UNLIMITED_SLOTS], (1, 2, 3)))
