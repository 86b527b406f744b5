"""The scene of `paceline demo`: a rate-limited API in a separate process, fetched by each strategy in turn."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from msgspec import Struct

from paceline.app import Service
from paceline.batch.compare import Comparison, StrategyResult, compare
from paceline.config import Config
from paceline.model import Item, ItemRetry, Rate, Strategy, Tenant
from paceline.units import MAX_DURATION_S, format_duration
from paceline.upstream.pipeline import DEFAULT_CONCURRENCY
from paceline.upstream.upstream import Upstream

API_LATENCY = "30ms"
"""How long the API takes for each response."""

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0


class ApiNotStarted(Exception):
    """The API's process did not start; its standard error says why."""


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


async def measure_strategies(url: str, options: DemoOptions) -> AsyncGenerator[tuple[StrategyResult, ApiCounts]]:
    """Fetch the API under each strategy in turn; give what this side and the API measured as soon as it is there."""
    service = Service(_config(url, options))
    try:
        for strategy in Strategy:
            # One comparison each, so that the API can be asked what it counted; after a reset the order is irrelevant.
            [row] = await compare(service.runner, _build_comparison(service.registry.get("demo"), strategy, options))
            counts = _counts_from_stats(await asyncio.to_thread(_request_json, "GET", url + "/stats"))
            await asyncio.to_thread(_request_json, "POST", url + "/reset")
            yield row, counts
    finally:
        await service.close()


@asynccontextmanager
async def start_api(options: DemoOptions) -> AsyncIterator[str]:
    """Run the API as a child process, ended with the block; gives its URL.

    Raises:
        ApiNotStarted: it printed no address in time.
    """
    flags = ("--limit", str(options.limit), "--per", format_duration(options.per_s), "--latency", API_LATENCY)
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
            raise ApiNotStarted
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
