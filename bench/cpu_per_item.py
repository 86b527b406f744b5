"""CPU per item and items per second: the whole service and the scripts people write, alternating in one run."""

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

from bench.baseline_scripts import CONCURRENCY
from bench.measured_processes import post_json, process_cpu_s, start_demo_api, start_service

ITEMS = 1000
BATCHES_PER_ROUND = 3
ROUNDS = 5

Measure = Callable[[], tuple[float, float]]
"""One run of `ITEMS * BATCHES` items: CPU seconds and elapsed seconds."""


def run(console: Console) -> None:
    """Measure and print; medians of five alternations."""
    with ExitStack() as stack:
        url = stack.enter_context(start_demo_api("--limit", "1000000", "--per", "1s"))
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
            base, pid = stack.enter_context(start_service({"upstreams": {"bench": policy}}, folder))
            contenders[f"paceline, {engine}"] = _measure_service(base, pid)
        contenders["aiohttp + semaphore script"] = _measure_script("aiohttp_semaphore", url)
        contenders["httpx gather"] = _measure_script("httpx_gather", url)
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, measure in contenders.items():
                samples[name].append(measure())
    items = ITEMS * BATCHES_PER_ROUND
    cpu = {name: median(run[0] for run in runs) / items * 1e6 for name, runs in samples.items()}
    items_per_s = {name: items / median(run[1] for run in runs) for name, runs in samples.items()}
    script_cpu = cpu["aiohttp + semaphore script"]
    table = Table(title=f"{ITEMS:,} items a batch, {CONCURRENCY} in flight, adaptive; medians of {ROUNDS} alternations")
    for heading in ("", "CPU per item", "items/s", "CPU / the script's", "httpx gather's CPU / this"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in contenders:
        table.add_row(
            name,
            f"{cpu[name]:.0f} us",
            f"{items_per_s[name]:,.0f}",
            f"{cpu[name] / script_cpu:.2f}",
            f"{cpu['httpx gather'] / cpu[name]:.1f}",
        )
    console.print(table)


def _measure_service(base: str, pid: int) -> Measure:
    body = json.dumps({"requests": [{"upstream": "bench", "path": f"/items/{n}"} for n in range(ITEMS)]}).encode()
    post_json(f"{base}/v1/batch", body)

    def measure() -> tuple[float, float]:
        cpu, started_at = process_cpu_s(pid), time.perf_counter()
        for _ in range(BATCHES_PER_ROUND):
            response = post_json(f"{base}/v1/batch", body)
            assert response["summary"]["succeeded"] == ITEMS, response["summary"]
        return process_cpu_s(pid) - cpu, time.perf_counter() - started_at

    return measure


def _measure_script(name: str, url: str) -> Measure:
    def measure() -> tuple[float, float]:
        command = [sys.executable, "-m", "bench.baseline_scripts", name, url, str(ITEMS * BATCHES_PER_ROUND)]
        finished = subprocess.run(command, check=True, capture_output=True, text=True)
        cpu, elapsed = finished.stdout.split()
        return float(cpu), float(elapsed)

    return measure
