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
from paceline.batch.compare import Comparison, Measured, compare
from paceline.cli.compare import ORDER
from paceline.cli.options import UsageProblem
from paceline.cli.report import duration, plot, succeeded, table
from paceline.config import Config
from paceline.model import Item, ItemRetry, Rate, Strategy, Tenant
from paceline.units import LONGEST_S, write_duration
from paceline.upstream.pipeline import DEFAULT_CONCURRENCY
from paceline.upstream.registry import Upstream

_LATENCY = "30ms"
_START_WITHIN_S = 20.0
_END_WITHIN_S = 10.0


class Seen(Struct, frozen=True):
    """What the API counted during one strategy's run."""

    accepted: int
    refused: int
    most_in_window: int
    """The most requests it accepted in any stretch of its window."""
    most_in_flight: int
    per_second: float
    """From the first request it accepted to the last."""


class Demo(Struct, frozen=True):
    """The API's limit and how many requests it gets."""

    n: int
    limit: int
    per_s: float


def demo(what: Demo) -> int:
    """Run it and print what happened; returns the exit code: 0 when nothing was lost or refused under `adaptive`."""
    rows = uvloop.run(_run(what))
    measured = [row for row, _ in rows]
    print(f"\n{table(measured)}\n\n{plot(measured)}\n\n{_upstream_table(rows, what)}\n\n{conclusion(rows, what)}")
    adaptive = measured[-1]
    return 0 if succeeded(adaptive) == what.n and not adaptive.refusals else 1


def conclusion(rows: Sequence[tuple[Measured, Seen]], what: Demo) -> str:
    """Two sentences: what the classic forms did, and what `adaptive` did."""
    classic, (adaptive, seen) = rows[:-1], rows[-1]
    roughest, _ = max(classic, key=lambda pair: pair[0].refusals)
    if roughest.refusals:
        lost = what.n - succeeded(roughest)
        first = f"{roughest.strategy.value} was refused {roughest.refusals} times and lost {lost} of {what.n} requests"
    else:
        first = "None of the classic forms was refused"
    safe = [pair for pair in classic if not pair[0].refusals and succeeded(pair[0]) == what.n]
    if safe:
        slow, slow_seen = max(safe, key=lambda pair: pair[0].elapsed_ms)
        first += (
            f"; {slow.strategy.value} lost none and took {duration(slow.elapsed_ms)}, "
            f"at {_share(slow_seen, what)} of the API's limit"
        )
    second = (
        f"adaptive got {succeeded(adaptive)} of {what.n} in {duration(adaptive.elapsed_ms)}, "
        f"at {_share(seen, what)} of the limit, and was refused {seen.refused} times."
    )
    return f"{fill(first + '.', 80)}\n{fill(second, 80)}"


async def _run(what: Demo) -> list[tuple[Measured, Seen]]:
    rows: list[tuple[Measured, Seen]] = []
    async with _upstream(what) as url:
        print(
            f"an API of its own at {url}: {what.limit} requests in any {write_duration(what.per_s)}, else 429; "
            f"each answer takes {_LATENCY}\n{what.n} requests under each strategy, one attempt each; "
            "the classic four do not know the limit"
        )
        service = Service(_config(url, what))
        try:
            for strategy in ORDER:
                # By itself, so that the API can be asked what it saw; it is told to forget, so order changes nothing.
                [row] = await compare(service.runner, _comparison(service.registry.named("demo"), strategy, what))
                rows.append((row, _seen(await asyncio.to_thread(_call, "GET", url + "/stats"))))
                await asyncio.to_thread(_call, "POST", url + "/reset")
                print(f"  {strategy.value} done in {duration(row.elapsed_ms)}", flush=True)
        finally:
            await service.close()
    return rows


@asynccontextmanager
async def _upstream(what: Demo) -> AsyncIterator[str]:
    """The API as a child process, ended with the block; gives its URL."""
    options = ("--limit", str(what.limit), "--per", write_duration(what.per_s), "--latency", _LATENCY)
    argv = (sys.executable, "-m", "paceline.cli.demo_upstream", "--port", "0", *options)
    child = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, stdin=asyncio.subprocess.DEVNULL)
    assert child.stdout is not None
    try:
        try:
            async with asyncio.timeout(_START_WITHIN_S):
                said = (await child.stdout.readline()).decode().split()
        except TimeoutError:
            said = []
        if not said:
            raise UsageProblem("the demo API did not start; what it says is above")
        yield said[-1]
    finally:
        if child.returncode is None:
            child.terminate()
        try:
            async with asyncio.timeout(_END_WITHIN_S):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()


def _config(url: str, what: Demo) -> Config:
    """The API declared as an operator would: where it is and its limit, taken in an even beat."""
    rate = {"limit": what.limit, "per": what.per_s, "burst": 1}
    return Config.model_validate(
        {"upstreams": {"demo": {"base_url": url, "allow_private": True, "allow_unpaced": True, "rate": [rate]}}}
    )


def _comparison(upstream: Upstream, strategy: Strategy, what: Demo) -> Comparison:
    return Comparison(
        upstream=upstream,
        item=Item(upstream=upstream.name, path="/item", retry=ItemRetry(attempts=1)),
        n=what.n,
        strategies=[strategy],
        engines=[upstream.policy.engine],
        max_concurrency=DEFAULT_CONCURRENCY,
        rate=Rate(what.limit, what.per_s, what.limit),
        unpaced=True,
        deadline_s=LONGEST_S,
        tenant=Tenant(),
    )


def _call(method: str, url: str) -> dict[str, Any]:
    direct = build_opener(ProxyHandler({}))
    with direct.open(Request(url, method=method), timeout=_END_WITHIN_S) as answer:  # noqa: S310 - our own child's URL
        return dict(json.load(answer))


def _seen(stats: dict[str, Any]) -> Seen:
    arrivals, per_s = stats["arrivals"], stats["per_s"]
    most = first = 0
    for last, moment in enumerate(arrivals):
        while moment - arrivals[first] >= per_s:
            first += 1
        most = max(most, last - first + 1)
    took_s = arrivals[-1] - arrivals[0] if arrivals else 0.0
    per_second = (len(arrivals) - 1) / took_s if took_s else 0.0
    return Seen(stats["accepted"], stats["refused"], most, stats["in_flight_max"], per_second)


def _upstream_table(rows: Sequence[tuple[Measured, Seen]], what: Demo) -> str:
    headings = ("accepted", "refused", f"most in {write_duration(what.per_s)}", "in flight", "a second")
    lines = ["what the API saw".ljust(18) + "".join(heading.rjust(12) for heading in headings)]
    for row, seen in rows:
        counts = (seen.accepted, seen.refused, seen.most_in_window, seen.most_in_flight, round(seen.per_second, 1))
        lines.append(row.strategy.value.ljust(18) + "".join(str(count).rjust(12) for count in counts))
    return "\n".join(lines)


def _share(seen: Seen, what: Demo) -> str:
    return f"{100 * seen.per_second * what.per_s / what.limit:.1f} %"
