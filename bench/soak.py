"""`make soak`: a real `paceline serve` under mixed load, with faults; then what went in, what came out, what stayed.

Batches of every strategy and form go over both engines to upstreams that are steady, limited, or behind a fault proxy
whose fault changes every second; some callers leave, some halt, some have no time, some send half a request or never
read. Afterwards nothing may be left: exit code 1 where something is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from tools import loop_lag_monitor
from tools.fault_proxy import Fault, FaultProxy, Phase
from tools.loop_lag_monitor import read_report
from tools.processes import LISTENING_PATTERN, start_process
from tools.scripted_upstream import Peer, ReceivedRequest, ScriptedUpstream, drip_body, never_respond, response_head

WORKERS = 12
MISBEHAVING_CLIENTS = 2
SETTLE_TIMEOUT_S = 25.0
"""Connections kept alive to upstreams are closed after 15 s of rest, in a sweep every 5."""
LIMIT = 200
KINDS = ("steady", "limited", "faulty")
ENGINES = ("aiohttp", "httpx")
ACCEPT_TYPES = ("application/json", "application/json", "application/x-ndjson", "text/event-stream")
STRATEGIES = ("adaptive", "adaptive", "adaptive", "concurrent", "bounded", "token_bucket", "sequential")
STREAM_LINE_PREFIXES = {"application/x-ndjson": b"", "text/event-stream": b"data: "}


class SoakLoad:
    """The load, and the count of it."""

    def __init__(self, base_url: str, proxy: FaultProxy, rng: random.Random) -> None:
        self._base_url = base_url
        self._proxy = proxy
        self._rng = rng
        self.items_in = 0
        self.items_out = 0
        self.outcomes: Counter[str] = Counter()
        self.client_events: Counter[str] = Counter()
        self.wrong_responses: list[str] = []

    async def run(self, seconds: float) -> None:
        ends_at = time.perf_counter() + seconds
        connector = aiohttp.TCPConnector(limit=WORKERS)
        async with aiohttp.ClientSession(self._base_url, connector=connector) as http, asyncio.TaskGroup() as group:
            group.create_task(self._inject_faults(ends_at))
            for _ in range(WORKERS):
                group.create_task(self._send_batches(http, ends_at))
            for _ in range(MISBEHAVING_CLIENTS):
                group.create_task(self._misbehave(ends_at))

    async def _inject_faults(self, ends_at: float) -> None:
        while time.perf_counter() < ends_at:
            phase = self._rng.choice([Phase.CONNECT, Phase.HEADERS, Phase.BODY, Phase.IDLE])
            await self._proxy.inject(self._rng.choice(list(Fault)), phase, delay_s=0.2)
            await asyncio.sleep(1.0)
            if self._rng.random() < 0.5:
                await self._proxy.clear()
                await asyncio.sleep(1.0)
        await self._proxy.clear()

    async def _send_batches(self, http: aiohttp.ClientSession, ends_at: float) -> None:
        while time.perf_counter() < ends_at:
            accept, body = self._rng.choice(ACCEPT_TYPES), self._random_batch()
            if self._rng.random() < 0.15:
                await self._disconnect_early(http, accept, body)
                continue
            async with http.post("/v1/batch", json=body, headers={"accept": accept}) as response:
                if response.status != 200:
                    self.client_events[f"refused with {response.status}"] += 1
                    continue
                count = len(body["requests"])
                self.items_in += count
                self.client_events["answered"] += 1
                outcomes = parse_outcomes(accept, await response.read())
            self.items_out += len(outcomes)
            if {outcome["index"] for outcome in outcomes} != set(range(count)):
                self.wrong_responses.append(
                    f"{count} items asked, indexes answered: {[each['index'] for each in outcomes]}"
                )
            self.outcomes.update(outcome["outcome"] for outcome in outcomes)

    async def _disconnect_early(self, http: aiohttp.ClientSession, accept: str, body: dict[str, Any]) -> None:
        request_task = asyncio.ensure_future(http.post("/v1/batch", json=body, headers={"accept": accept}))
        await asyncio.sleep(self._rng.uniform(0, 0.3))
        request_task.cancel()
        with suppress(asyncio.CancelledError):
            (await request_task).close()
        self.client_events["left"] += 1

    def _random_batch(self) -> dict[str, Any]:
        rng = self._rng
        body: dict[str, Any] = {
            "requests": [self._random_item() for _ in range(rng.choice([1, 5, 20, 60]))],
            "strategy": rng.choice(STRATEGIES),
            "deadline": f"{rng.choice([0.2, 2, 5])}s",
            "priority": rng.choice(["interactive", "normal", "bulk"]),
        }
        if rng.random() < 0.15:
            body["on_failure"] = "halt"
        if body["strategy"] == "sequential":
            del body["requests"][10:]
        if body["strategy"] == "token_bucket" or (body["strategy"] == "adaptive" and rng.random() < 0.2):
            body |= {"rate": {"limit": 100, "per": "1s"}, "max_concurrency": 10}
        return body

    def _random_item(self) -> dict[str, Any]:
        rng = self._rng
        path = rng.choices(["/ok", "/slow", "/large", "/fails", "/flaky", "/throttled", "/silent", "/drips"],
                              [40, 15, 8, 8, 8, 4, 1, 1])[0]  # fmt: skip
        kind = rng.choices(KINDS, [5, 2, 3])[0]
        if kind == "faulty" and path in ("/silent", "/drips"):
            path = "/ok"
        item: dict[str, Any] = {"upstream": f"{kind}-{rng.choice(ENGINES)}", "path": path}
        if rng.random() < 0.2:
            item |= {"method": "POST", "json": {"payload": "x" * rng.choice([10, 20_000])}}
        return item

    async def _misbehave(self, ends_at: float) -> None:
        host, _, port = self._base_url.rpartition("/")[2].partition(":")
        body = json.dumps({"requests": [self._random_item() for _ in range(20)]}).encode()
        request_start = b"POST /v1/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        request = request_start + b"accept: application/x-ndjson\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        raw_requests = [
            request[:30],
            request[:-5],
            request_start + b"x: " + b"y" * 200_000,
            b"\x00\r\n\r\n",
            request,
            request * 3,
        ]
        while time.perf_counter() < ends_at:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(host, int(port))
                if self._rng.random() < 0.5:
                    writer.transport.pause_reading()
                writer.write(self._rng.choice(raw_requests))
                await asyncio.sleep(self._rng.uniform(0, 0.5))
                if self._rng.random() < 0.5:
                    writer.transport.abort()
                writer.close()
            self.client_events["misbehaved"] += 1


def parse_outcomes(accept: str, content: bytes) -> list[dict[str, Any]]:
    """The outcomes of an answer in any of its forms."""
    if accept == "application/json":
        return list(json.loads(content)["responses"])
    prefix = STREAM_LINE_PREFIXES[accept]
    events = [json.loads(line[len(prefix) :]) for line in content.splitlines() if line.startswith(prefix + b"{")]
    assert "summary" in events[-1], content[-200:]
    return events[:-1]


def script_upstream(upstream: ScriptedUpstream, rng: random.Random) -> None:
    async def slow(request: ReceivedRequest, peer: Peer) -> None:
        await asyncio.sleep(rng.uniform(0, 0.2))
        peer.write(response_head(200, {"content-length": "2"}) + b"ok")

    async def flaky(request: ReceivedRequest, peer: Peer) -> None:
        peer.write(response_head(503 if rng.random() < 0.3 else 200, {"content-length": "0"}))

    async def throttled(request: ReceivedRequest, peer: Peer) -> None:
        if rng.random() < 0.1:
            peer.write(response_head(429, {"content-length": "0", "retry-after": "0.1"}))
        else:
            peer.write(response_head(200, {"content-length": "0"}))

    handlers = {
        "/slow": slow,
        "/flaky": flaky,
        "/throttled": throttled,
        "/silent": never_respond(),
        "/drips": drip_body(),
    }
    for path, handler in handlers.items():
        upstream.script(path, handler)
    upstream.script_response("/large", body="x" * 50_000, headers={"content-type": "text/plain"})
    upstream.script_response("/fails", status=404)


def build_config(steady: str, faulty: str) -> dict[str, Any]:
    """Every kind of upstream on every engine."""
    rates: dict[str, Any] = {"limited": {"rate": [{"limit": LIMIT, "per": "1s"}]}}
    policy = {
        "allow_private": True,
        "timeout": {"connect": "500ms", "attempt": "1s", "item": "3s"},
        "retry": {"base": "10ms", "cap": "200ms"},
    }
    return {
        "upstreams": {
            f"{kind}-{engine}": {
                "base_url": faulty if kind == "faulty" else steady,
                "engine": engine,
                **policy,
                **rates.get(kind, {}),
            }
            for kind in KINDS
            for engine in ENGINES
        }
    }


def rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def unreleased_amounts(base_url: str) -> dict[str, float]:
    """What the service says it still holds: permits, waiters, and tokens that did not come back."""
    async with aiohttp.ClientSession(base_url) as http, http.get("/v1/upstreams") as response:
        states = (await response.json())["upstreams"]
    windows = [window for state in states for budget in state["budgets"] for window in budget["windows"]]
    return {
        "permits": sum(state["in_flight"] for state in states),
        "waiters": sum(state["queued"] for state in states),
        "tokens": sum(LIMIT - window["remaining"] for window in windows if window["source"] == "declared"),
    }


async def soak(console: Console, seconds: float, seed: int) -> int:
    """Run it and print what it gave; the exit code."""
    rng = random.Random(seed)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = await stack.enter_async_context(ScriptedUpstream())
        proxy = await stack.enter_async_context(FaultProxy(upstream.port))
        script_upstream(upstream, rng)
        file, monitor_file = folder / "paceline.yaml", folder / "seen.json"
        file.write_text(json.dumps(build_config(upstream.url, proxy.url)))
        argv = (
            sys.executable,
            loop_lag_monitor.__file__,
            str(monitor_file),
            "serve",
            "--config",
            str(file),
            "--port",
            "0",
        )
        service = await stack.enter_async_context(start_process(*argv))
        base_url = (await service.wait_for_output(LISTENING_PATTERN))[1]
        before = await read_report(service, monitor_file)
        load = SoakLoad(base_url, proxy, rng)
        await load.run(min(5.0, seconds / 5))
        warm_mib = rss_mib(service.pid)
        half_s = max(1.0, seconds - SETTLE_TIMEOUT_S - 5.0) / 2
        await load.run(half_s)
        half_mib = rss_mib(service.pid)
        await load.run(half_s)
        under_load, peak_mib = await read_report(service, monitor_file), rss_mib(service.pid)
        ends_at = time.perf_counter() + SETTLE_TIMEOUT_S + 10
        while time.perf_counter() < ends_at:
            await asyncio.sleep(1.0)
            after, unreleased = await read_report(service, monitor_file), await unreleased_amounts(base_url)
            if after["files"] <= before["files"] and after["tasks"] <= before["tasks"] and not any(unreleased.values()):
                break
        end_mib = rss_mib(service.pid)
        service.send_signal(signal.SIGTERM)
        code = await service.wait_for_exit()
        faults = service.output().count("Traceback") + service.output().count("fault of Paceline")
    leaks = {
        "items without an outcome": load.items_in - load.items_out,
        "wrong answers": len(load.wrong_responses),
        "file descriptors": max(0, after["files"] - before["files"]),
        "tasks": max(0, after["tasks"] - before["tasks"]),
        **{name: round(amount, 3) for name, amount in unreleased.items()},
        "faults in its log": faults,
        "exit code": code,
    }
    table = Table(title=f"soak, {seconds:g} s, seed {seed}", show_header=False)
    table.add_row("items in", f"{load.items_in:,}")
    table.add_row("outcomes out", f"{load.items_out:,}")
    table.add_row("outcomes", ", ".join(f"{name} {count:,}" for name, count in load.outcomes.most_common()))
    table.add_row("callers", ", ".join(f"{name} {count:,}" for name, count in load.client_events.most_common()))
    table.add_row("upstream", f"{len(upstream.requests):,} requests, {proxy.injected_count:,} with an injected fault")
    table.add_row("leaks", ", ".join(f"{name} {amount}" for name, amount in leaks.items()))
    table.add_row(
        "RSS",
        f"MiB: {warm_mib:.0f} warm, {half_mib:.0f} at half time, {peak_mib:.0f} under load, {end_mib:.0f} at the end",
    )
    table.add_row("worst loop lag", f"{under_load['late_ms']} ms, of its own CPU {under_load['busy_ms']} ms")
    console.print(table)
    for wrong_response in load.wrong_responses[:5]:
        console.print(wrong_response)
    if any(leaks.values()):
        console.print("[bold red]something was left[/]")
        return 1
    return 0


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=180.0)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    sys.exit(asyncio.run(soak(Console(width=110), given.seconds, given.seed)))
