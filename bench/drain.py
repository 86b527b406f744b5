"""Drain time and refusals against a strict sliding-window API, compared with scripts and the ideal N / rate."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.measured_processes import post_json, start_demo_api, start_service

RATES = {5: 50, 50: 400, 500: 3_000, 2_000: 10_000}
"""Items for each rate a second."""
BATCH_ITEMS = 1000
PARALLEL_CLIENTS = 4

SendItems = Callable[[str, int, int], None]
"""Send a number of items to this URL at a rate per second."""


def run(console: Console) -> None:
    """Measure and print; each contender alone."""
    table = Table(title="a strict API: at most the rate in any stretch of 1 s; one attempt an item")
    for heading in ("rate/s", "items", "", "served", "refused", "drain time / ideal", "of the rate used"):
        table.add_column(heading, justify="right" if heading else "left")
    contenders: dict[str, SendItems] = {
        "paceline": _send_through_service,
        "aiolimiter(rate, 1) script": _send_by_script("aiolimiter"),
        "GCRA script": _send_by_script("gcra"),
    }
    for rate, items in RATES.items():
        for name, send in contenders.items():
            with start_demo_api("--limit", str(rate), "--per", "1s") as url:
                send(url, rate, items)
                stats = _fetch_stats(url)
            took_s, ideal_s = stats["last_at"] - stats["first_at"], (items - 1) / rate
            used = (stats["accepted"] - 1) / rate / took_s
            table.add_row(
                f"{rate:,}",
                f"{items:,}",
                name,
                f"{stats['accepted']:,}",
                f"{stats['refused']:,}",
                f"{took_s / ideal_s:.3f}",
                f"{used:.1%}",
            )
        table.add_section()
    console.print(table)
    console.print(
        "drain time: from the first served to the last; below 1 the limit was overrun, and what was refused is lost\n"
    )


def _send_through_service(url: str, rate: int, items: int) -> None:
    policy = {
        "base_url": url,
        "allow_private": True,
        "concurrency": {"limit": 1000},
        "rate": [{"limit": rate, "per": "1s", "burst": 1}],
        "retry": {"attempts": 1},
    }

    def send(first: int) -> None:
        requests = [{"path": f"/items/{index}"} for index in range(first, min(first + BATCH_ITEMS, items))]
        body = {"requests": requests, "defaults": {"upstream": "bench"}, "deadline": "5m"}
        post_json(f"{base}/v1/batch", json.dumps(body).encode())

    with (
        tempfile.TemporaryDirectory() as folder,
        start_service({"upstreams": {"bench": policy}}, Path(folder)) as (base, _),
        ThreadPoolExecutor(PARALLEL_CLIENTS) as clients,
    ):
        list(clients.map(send, range(0, items, BATCH_ITEMS)))


def _send_by_script(limiter: str) -> SendItems:
    def send(url: str, rate: int, items: int) -> None:
        command = [sys.executable, "-m", "bench.baseline_limiters", limiter, url, str(rate), str(items)]
        subprocess.run(command, check=True)

    return send


def _fetch_stats(url: str) -> dict[str, Any]:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/stats") as answer:
        return dict(json.load(answer))
