"""CPU per item and items a second: the whole service beside the scripts people write, alternating in one run."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.children import cpu_s, post, service, upstream
from bench.scripts import CONCURRENCY

ITEMS = 1000
BATCHES = 3
ROUNDS = 5

Measure = Callable[[], tuple[float, float]]
"""One run of `ITEMS * BATCHES` items: CPU seconds and elapsed seconds."""


def run(console: Console) -> None:
    """Measure and print; medians of five alternations."""
    with ExitStack() as stack:
        url = stack.enter_context(upstream("--limit", "1000000", "--per", "1s"))
        contenders: dict[str, Measure] = {}
        for engine in ("aiohttp", "httpx"):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            policy = {
                "base_url": url,
                "allow_private": True,
                "engine": engine,
                "concurrency": {"limit": CONCURRENCY},
                "rate": [{"limit": 1_000_000, "per": "1s"}],
            }
            base, pid = stack.enter_context(service({"upstreams": {"bench": policy}}, folder))
            contenders[f"paceline, {engine}"] = _through_service(base, pid)
        contenders["aiohttp + semaphore script"] = _script("aiohttp_semaphore", url)
        contenders["httpx gather"] = _script("httpx_gather", url)
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, measure in contenders.items():
                seen[name].append(measure())
    items = ITEMS * BATCHES
    cpu = {name: median(run[0] for run in runs) / items * 1e6 for name, runs in seen.items()}
    pace = {name: items / median(run[1] for run in runs) for name, runs in seen.items()}
    script = cpu["aiohttp + semaphore script"]
    table = Table(title=f"{ITEMS:,} items a batch, {CONCURRENCY} in flight, adaptive; medians of {ROUNDS} alternations")
    for heading in ("", "CPU per item", "items/s", "CPU / the script's", "httpx gather's CPU / this"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in contenders:
        table.add_row(
            name,
            f"{cpu[name]:.0f} us",
            f"{pace[name]:,.0f}",
            f"{cpu[name] / script:.2f}",
            f"{cpu['httpx gather'] / cpu[name]:.1f}",
        )
    console.print(table)


def _through_service(base: str, pid: int) -> Measure:
    body = json.dumps({"requests": [{"upstream": "bench", "path": f"/items/{n}"} for n in range(ITEMS)]}).encode()
    post(f"{base}/v1/batch", body)

    def measure() -> tuple[float, float]:
        cpu, began_at = cpu_s(pid), time.perf_counter()
        for _ in range(BATCHES):
            answer = post(f"{base}/v1/batch", body)
            assert answer["summary"]["succeeded"] == ITEMS, answer["summary"]
        return cpu_s(pid) - cpu, time.perf_counter() - began_at

    return measure


def _script(name: str, url: str) -> Measure:
    def measure() -> tuple[float, float]:
        command = [sys.executable, "-m", "bench.scripts", name, url, str(ITEMS * BATCHES)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        cpu, elapsed = done.stdout.split()
        return float(cpu), float(elapsed)

    return measure
