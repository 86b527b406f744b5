"""`paceline demo`: a rate-limited API in a process of its own, fetched by five strategies over real sockets.

What is said at the end is computed from what both sides counted.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from textwrap import fill
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import uvloop
from msgspec import Struct

from paceline.app import Service
from paceline.batch.compare import Comparison, StrategyResult, compare
from paceline.cli.compare_strategies import STRATEGY_ORDER
from paceline.cli.ui.compare_report import latency_plot, results_table, success_count
from paceline.cli.ui.table import format_ms, render_table
from paceline.cli.usage_error import UsageError
from paceline.config import Config
from paceline.model import Item, ItemRetry, Rate, Strategy, Tenant
from paceline.units import MAX_DURATION_S, format_duration
from paceline.upstream.pipeline import DEFAULT_CONCURRENCY
from paceline.upstream.upstream import Upstream

_LATENCY = "30ms"
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0


class ApiCounts(Struct, frozen=True):
    """What the API counted during one strategy's run."""

    accepted: int
    refused: int
    max_in_window: int
    """The most requests it accepted in any stretch of its window."""
    max_in_flight: int
    accepted_per_s: float
    """From the first request it accepted to the last."""


class DemoOptions(Struct, frozen=True):
    """The API's limit and how many requests it gets."""

    n: int
    limit: int
    per_s: float


def run_demo(options: DemoOptions) -> int:
    """Run it and print what happened; returns the exit code: 0 when nothing was lost or refused under `adaptive`."""
    rows = uvloop.run(_run_strategies(options))
    measured = [row for row, _ in rows]
    print(
        f"\n{results_table(measured)}\n\n{latency_plot(measured)}\n\n"
        f"{_api_counts_table(rows, options)}\n\n{conclusion(rows, options)}"
    )
    adaptive = measured[-1]
    return 0 if success_count(adaptive) == options.n and not adaptive.refusals else 1


def conclusion(rows: Sequence[tuple[StrategyResult, ApiCounts]], options: DemoOptions) -> str:
    """Two sentences: what the classic forms did, and what `adaptive` did."""
    classic, (adaptive, counts) = rows[:-1], rows[-1]
    most_refused, _ = max(classic, key=lambda pair: pair[0].refusals)
    if most_refused.refusals:
        lost = options.n - success_count(most_refused)
        strategy, refusals = most_refused.strategy.value, most_refused.refusals
        first = f"{strategy} was refused {refusals} times and lost {lost} of {options.n} requests"
    else:
        first = "None of the classic forms was refused"
    lossless = [pair for pair in classic if not pair[0].refusals and success_count(pair[0]) == options.n]
    if lossless:
        slowest, slowest_counts = max(lossless, key=lambda pair: pair[0].elapsed_ms)
        first += (
            f"; {slowest.strategy.value} lost none and took {format_ms(slowest.elapsed_ms)}, "
            f"at {_share_of_limit(slowest_counts, options)} of the API's limit"
        )
    second = (
        f"adaptive got {success_count(adaptive)} of {options.n} in {format_ms(adaptive.elapsed_ms)}, "
        f"at {_share_of_limit(counts, options)} of the limit, and was refused {counts.refused} times."
    )
    return f"{fill(first + '.', 80)}\n{fill(second, 80)}"


async def _run_strategies(options: DemoOptions) -> list[tuple[StrategyResult, ApiCounts]]:
    rows: list[tuple[StrategyResult, ApiCounts]] = []
    async with _api_process(options) as url:
        print(
            f"an API of its own at {url}: {options.limit} requests in any {format_duration(options.per_s)}, else 429; "
            f"each answer takes {_LATENCY}\n{options.n} requests under each strategy, one attempt each; "
            "the classic four do not know the limit"
        )
        service = Service(_config(url, options))
        try:
            for strategy in STRATEGY_ORDER:
                # By itself, so that the API can be asked what it saw; it is told to forget, so order changes nothing.
                [row] = await compare(
                    service.runner, _build_comparison(service.registry.get("demo"), strategy, options)
                )
                rows.append((row, _counts_from_stats(await asyncio.to_thread(_request_json, "GET", url + "/stats"))))
                await asyncio.to_thread(_request_json, "POST", url + "/reset")
                print(f"  {strategy.value} done in {format_ms(row.elapsed_ms)}", flush=True)
        finally:
            await service.close()
    return rows


@asynccontextmanager
async def _api_process(options: DemoOptions) -> AsyncIterator[str]:
    """The API as a child process, ended with the block; gives its URL."""
    flags = ("--limit", str(options.limit), "--per", format_duration(options.per_s), "--latency", _LATENCY)
    argv = (sys.executable, "-m", "paceline.demo.server", "--port", "0", *flags)
    process = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, stdin=asyncio.subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                startup_line = (await process.stdout.readline()).decode().split()
        except TimeoutError:
            startup_line = []
        if not startup_line:
            raise UsageError("the demo API did not start; what it says is above")
        yield startup_line[-1]
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _config(url: str, options: DemoOptions) -> Config:
    """The API declared as an operator would: where it is and its limit, taken in an even beat."""
    rate = {"limit": options.limit, "per": options.per_s, "burst": 1}
    return Config.model_validate(
        {"upstreams": {"demo": {"base_url": url, "allow_private": True, "allow_unpaced": True, "rate": [rate]}}}
    )


def _build_comparison(upstream: Upstream, strategy: Strategy, options: DemoOptions) -> Comparison:
    return Comparison(
        upstream=upstream,
        item=Item(upstream=upstream.name, path="/item", retry=ItemRetry(attempts=1)),
        n=options.n,
        strategies=[strategy],
        engines=[upstream.policy.engine],
        max_concurrency=DEFAULT_CONCURRENCY,
        rate=Rate(options.limit, options.per_s, options.limit),
        unpaced=True,
        deadline_s=MAX_DURATION_S,
        tenant=Tenant(),
    )


def _request_json(method: str, url: str) -> dict[str, Any]:
    opener = build_opener(ProxyHandler({}))
    with opener.open(Request(url, method=method), timeout=_STOP_TIMEOUT_S) as response:  # noqa: S310 - our own child's URL
        return dict(json.load(response))


def _counts_from_stats(stats: dict[str, Any]) -> ApiCounts:
    arrivals, per_s = stats["arrivals"], stats["per_s"]
    max_in_window = first = 0
    for last, arrived_at in enumerate(arrivals):
        while arrived_at - arrivals[first] >= per_s:
            first += 1
        max_in_window = max(max_in_window, last - first + 1)
    took_s = arrivals[-1] - arrivals[0] if arrivals else 0.0
    per_second = (len(arrivals) - 1) / took_s if took_s else 0.0
    return ApiCounts(stats["accepted"], stats["refused"], max_in_window, stats["in_flight_max"], per_second)


def _api_counts_table(rows: Sequence[tuple[StrategyResult, ApiCounts]], options: DemoOptions) -> str:
    headings = (
        "what the API saw",
        "accepted",
        "refused",
        f"most in {format_duration(options.per_s)}",
        "in flight",
        "a second",
    )
    cells = [
        (
            row.strategy.value,
            str(counts.accepted),
            str(counts.refused),
            str(counts.max_in_window),
            str(counts.max_in_flight),
            f"{counts.accepted_per_s:.1f}",
        )
        for row, counts in rows
    ]
    return render_table(headings, cells)


def _share_of_limit(counts: ApiCounts, options: DemoOptions) -> str:
    return f"{100 * counts.accepted_per_s * options.per_s / options.limit:.1f} %"
