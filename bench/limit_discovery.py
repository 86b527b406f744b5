"""An unknown limit: the rate over time against a strict API of 100/s that only ever says 429, over real sockets."""

from __future__ import annotations

import asyncio
import json
import urllib.request

from rich.console import Console

from bench.measured_processes import start_demo_api
from paceline.app import Service
from paceline.config import Config
from paceline.model import Batch, Item, ItemRetry

LIMIT = 100
RUN_S = 45
SETTLED_S = 30
_BARS = "▁▂▃▄▅▆▇█"


def run(console: Console) -> None:
    """Measure, plot, print."""
    with start_demo_api("--limit", str(LIMIT), "--per", "1s", "--latency", "10ms") as url:
        asyncio.run(_send_batch(url))
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/stats") as answer:
            stats = json.load(answer)
    arrivals: list[float] = stats["arrivals"]
    started_at = arrivals[0]
    seconds = [0] * RUN_S
    for arrived_at in arrivals:
        if arrived_at - started_at < RUN_S:
            seconds[int(arrived_at - started_at)] += 1
    settled = seconds[SETTLED_S:]
    plot = "".join(_BARS[min(len(_BARS) - 1, count * len(_BARS) // (LIMIT + 1))] for count in seconds)
    console.print(f"\nlearning an unknown limit of {LIMIT}/s; accepted in each of {RUN_S} s (a full bar is the limit)")
    console.print(f"  {plot}")
    refused_share = stats["refused"] / (stats["refused"] + stats["accepted"])
    refused_when_settled = sum(SETTLED_S <= moment - started_at < RUN_S for moment in stats["refusals"])
    console.print(
        f"  after {SETTLED_S} s: used {sum(settled) / len(settled) / LIMIT:.1%} (goal 95 %), "
        f"refused {refused_when_settled / (refused_when_settled + sum(settled)):.2%} (goal 1 %); "
        f"refused of all, learning included: {refused_share:.2%}"
    )


async def _send_batch(url: str) -> None:
    service = Service(Config.model_validate({"upstreams": {"api": {"base_url": url, "allow_private": True}}}))
    items = [Item(upstream="api", path=f"/items/{n}") for n in range(LIMIT * (RUN_S + 5))]
    batch = Batch(items=items, deadline_s=RUN_S + 3.0, retry=ItemRetry(throttles=1000))
    await service.runner.run(batch, lambda outcome: None)
    await service.close()
