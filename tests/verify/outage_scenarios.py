"""APIs that go down in every way behind a real service, a steady stream of items, and a record of all that was seen."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tools.fault_proxy import Fault, FaultProxy, Phase
from tools.paceline_server import PacelineServer, start_server, upstream_config
from tools.scripted_upstream import Peer, ReceivedRequest, ScriptedUpstream, response_head

SLOTS, SERVICE_S = 10, 0.2
CAPACITY = SLOTS / SERVICE_S
BATCH_ITEMS = 3
DEADLINE_S = 10.0
ATTEMPT_TIMEOUT_S = 2.0
MAX_ADAPTIVE_LIMIT = 60
"""The most the adaptive limit may come to."""
SCRAPE_INTERVAL_S = 0.2
STATES = ("closed", "open", "half_open")
_OK = response_head(200, {"content-length": "0"})
_UNAVAILABLE = response_head(503, {"content-length": "0"})


class Outage(StrEnum):
    REFUSED = "refused"
    RESET = "reset"
    UNAVAILABLE = "503"
    SILENT = "silent"


class OutageUpstream:
    """An upstream with a number of slots behind a fault proxy; each has its own faults."""

    def __init__(self, outage: Outage) -> None:
        self.outage = outage
        self.name = f"api-{outage}"
        self.upstream = ScriptedUpstream()
        self.upstream.script("/", self._serve)
        self._free_at = [0.0] * SLOTS
        self._down = False

    @asynccontextmanager
    async def run(self) -> AsyncIterator[OutageUpstream]:
        async with self.upstream, FaultProxy(self.upstream.port) as self.proxy:
            yield self

    @property
    def config(self) -> dict[str, Any]:
        timeout = {"attempt": f"{ATTEMPT_TIMEOUT_S}s"}
        return upstream_config(self.proxy.url, timeout=timeout, concurrency={"adaptive": {"max": MAX_ADAPTIVE_LIMIT}})

    async def fail(self) -> None:
        self._down = True
        if self.outage in (Outage.REFUSED, Outage.RESET):
            fault = Fault.DOWN if self.outage is Outage.REFUSED else Fault.RESET
            await self.proxy.inject(fault, Phase.CONNECT)
            self.proxy.reset_all()

    async def recover(self) -> None:
        self._down = False
        await self.proxy.clear()

    async def _serve(self, request: ReceivedRequest, peer: Peer) -> None:
        if self._down and self.outage is Outage.SILENT:
            await peer.wait_closed()
        elif self._down:
            peer.write(_UNAVAILABLE)
        else:
            # By the clock, so that a busy machine serves the same number; a client that disconnects returns no slot.
            now = time.perf_counter()
            over_at = max(now, heappop(self._free_at)) + SERVICE_S * random.uniform(0.9, 1.1)
            heappush(self._free_at, over_at)
            await asyncio.sleep(over_at - now)
            peer.write(_OK)


@dataclass(frozen=True, slots=True)
class ItemResult:
    """One item: when it was offered, when its outcome came, and what that was."""

    offered_at: float
    done_at: float
    code: str
    attempts: int
    retry_after_ms: float | None
    total_s: float


@dataclass(frozen=True, slots=True)
class MetricsSample:
    """What the service's metrics said of one upstream at one moment."""

    at: float
    sends: float
    in_flight: float
    limit: float
    breaker: str
    circuit_open: float


@dataclass(slots=True)
class OutageRecord:
    """All that came of one API's outage; moments are `time.perf_counter()`."""

    outage: Outage
    per_s: float
    began_at: float = 0.0
    down_at: float = 0.0
    up_at: float = 0.0
    offered: list[float] = field(default_factory=list)
    results: list[ItemResult] = field(default_factory=list)
    interactive_results: list[ItemResult] = field(default_factory=list)
    samples: list[MetricsSample] = field(default_factory=list)

    def offered_in(self, since: float, until: float) -> int:
        return sum(since <= at < until for at in self.offered)

    def goodput(self, since: float, until: float) -> float:
        """Successes that came in this time, over what was offered in it."""
        good = sum(since <= one.done_at < until for one in self.results if one.code == "success")
        return good / (self.per_s * (until - since))

    def success_ratio(self, since: float, until: float) -> float:
        """The share of what was offered in this time that came to a success."""
        codes = [one.code for one in self.results if since <= one.offered_at < until]
        return codes.count("success") / len(codes)

    def sends_until(self, at: float) -> float:
        """Sends up to the last look before a moment."""
        return max((seen.sends for seen in self.samples if seen.at <= at), default=0.0)

    @property
    def opened_at(self) -> float | None:
        return next((seen.at for seen in self.samples if seen.breaker != "closed"), None)

    @property
    def closed_at(self) -> float | None:
        """From when on it stayed closed."""
        last = max((n for n, seen in enumerate(self.samples) if seen.breaker != "closed"), default=-1)
        return self.samples[last + 1].at if last + 1 < len(self.samples) else None

    def codes(self) -> Counter[str]:
        return Counter(one.code for one in self.results)


async def run_outages(
    outages: Sequence[Outage], folder: Path, *, per_s: float, healthy_s: float, down_s: float, after_s: float
) -> list[tuple[OutageUpstream, OutageRecord]]:
    """Let APIs go down and up again while items for each arrive at `per_s`; one service for all of them."""
    async with AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(OutageUpstream(outage).run()) for outage in outages]
        config = {"upstreams": {api.name: api.config for api in apis}}
        server = await stack.enter_async_context(start_server(config, folder / "paceline.yaml"))
        connector = aiohttp.TCPConnector(limit=0)
        http = await stack.enter_async_context(aiohttp.ClientSession(server.base_url, connector=connector))
        records = [OutageRecord(api.outage, per_s) for api in apis]
        ends_at = time.perf_counter() + healthy_s + down_s + after_s
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            sampler = group.create_task(_sample_metrics(server, apis, records, over))
            async with asyncio.TaskGroup() as calling:
                for api, record in zip(apis, records, strict=True):
                    record.began_at = time.perf_counter()
                    calling.create_task(_send_steadily(http, api, record, ends_at))
                    calling.create_task(_cause_outage(http, api, record, healthy_s, down_s))
            await asyncio.sleep(2 * SCRAPE_INTERVAL_S)
            over.set()
            await sampler
    return list(zip(apis, records, strict=True))


async def _cause_outage(
    http: aiohttp.ClientSession, api: OutageUpstream, record: OutageRecord, healthy_s: float, down_s: float
) -> None:
    """Down after a time, and up again; while it is down, an interactive call every quarter of a second."""
    body = {"requests": [{"upstream": api.name, "path": "/"}], "priority": "interactive", "deadline": f"{DEADLINE_S}s"}
    await asyncio.sleep(healthy_s)
    await api.fail()
    record.down_at = now = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        while now < record.down_at + down_s:
            group.create_task(_send_batch(http, body, now, record.interactive_results))
            await asyncio.sleep(0.25)
            now = time.perf_counter()
        await api.recover()
        record.up_at = time.perf_counter()


async def _send_steadily(
    http: aiohttp.ClientSession, api: OutageUpstream, record: OutageRecord, ends_at: float
) -> None:
    """Small batches at their own times, whatever becomes of those before them."""
    every_s = BATCH_ITEMS / record.per_s
    items = [{"upstream": api.name, "path": "/"}] * BATCH_ITEMS
    body = {"requests": items, "defaults": {"expect": "none"}, "deadline": f"{DEADLINE_S}s"}
    next_at = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        while next_at < ends_at:
            await asyncio.sleep(max(0.0, next_at - time.perf_counter()))
            record.offered += [next_at] * BATCH_ITEMS
            group.create_task(_send_batch(http, body, next_at, record.results))
            next_at += every_s


async def _send_batch(
    http: aiohttp.ClientSession, body: dict[str, Any], offered_at: float, done: list[ItemResult]
) -> None:
    asked_at = time.perf_counter()
    async with http.post("/v1/batch", json=body) as answer:
        assert answer.status == 200, await answer.text()
        responses = (await answer.json())["responses"]
    assert [response["index"] for response in responses] == list(range(len(body["requests"])))
    for response in responses:
        timing, error = response["timing"], response["error"] or {}
        took_s = (timing["start_ms"] + timing["total_ms"]) / 1000
        code, after_ms = error.get("code", "success"), error.get("retry_after_ms")
        done.append(ItemResult(offered_at, asked_at + took_s, code, response["attempts"], after_ms, took_s))


async def _sample_metrics(
    server: PacelineServer, apis: Sequence[OutageUpstream], records: Sequence[OutageRecord], over: asyncio.Event
) -> None:
    """Read the metrics again and again until it is over."""
    while not over.is_set():
        text = await server.metrics()
        at = time.perf_counter()
        sums: Counter[tuple[str, str]] = Counter()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = sample.labels
                kind = labels.get("state") or labels.get("code") or ""
                sums[f"{sample.name} {kind}".strip(), labels.get("upstream", "")] += sample.value
        for api, record in zip(apis, records, strict=True):
            record.samples.append(
                _parse_sample(at, {metric: value for (metric, name), value in sums.items() if name == api.name})
            )
        await asyncio.sleep(SCRAPE_INTERVAL_S)


def _parse_sample(at: float, values: Mapping[str, float]) -> MetricsSample:
    in_flight = values["paceline_in_flight"]
    (breaker,) = [state for state in STATES if values[f"paceline_breaker_state {state}"]]
    return MetricsSample(
        at,
        values.get("paceline_attempts_total", 0.0) + in_flight,
        in_flight,
        values["paceline_concurrency_limit"],
        breaker,
        values.get("paceline_rejections_total circuit_open", 0.0),
    )
