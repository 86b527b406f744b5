"""What a plan costs: CPU for each item of a batch, by what its gate is held by. Nothing is sent."""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from paceline.app import Service
from paceline.batch.plan import plan_batch
from paceline.config import Config
from paceline.model import Batch, Item, Rate

ITEMS = 5_000
ROUNDS = 5
GOAL_US = 20
RATE = {"limit": 500, "per": "1s", "burst": 1}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "permits": ({"concurrency": {"limit": 50}}, {}),
    "its limit, still learned": ({}, {}),
    "a rate of 500/s": ({"rate": [RATE], "concurrency": {"limit": 100}}, {}),
    "a rate of 500/s and one of an hour": ({"rate": [RATE, {"limit": 100_000, "per": "1h"}]}, {}),
    "the batch's own cap and rate": ({"concurrency": {"limit": 100}}, {"max_concurrency": 20, "rate": Rate(200, 1, 1)}),
}


def run(console: Console) -> None:
    """Measure and print; medians of five."""
    samples_s: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, (policy, fields) in CASES.items():
            samples_s[name].append(asyncio.run(_measure_cost_s(policy, fields)))
    table = Table(title=f"a plan of {ITEMS:,} items; us of CPU an item, medians of {ROUNDS}, goal {GOAL_US}")
    table.add_column("held by")
    table.add_column("us", justify="right")
    for name, costs_s in samples_s.items():
        table.add_row(name, f"{median(costs_s) * 1e6:.1f}")
    console.print(table)


async def _measure_cost_s(policy: dict[str, Any], fields: dict[str, Any]) -> float:
    service = Service(Config.model_validate({"upstreams": {"api": {"base_url": "https://api.example", **policy}}}))
    batch = Batch([Item(upstream="api", path=f"/{n}") for n in range(ITEMS)], deadline_s=1_000.0, **fields)
    started_s = time.process_time()
    await plan_batch(service.registry, batch)
    cost_s = (time.process_time() - started_s) / ITEMS
    await service.close()
    return cost_s
