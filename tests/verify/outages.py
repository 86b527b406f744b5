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

from support.fault_proxy import Fault, FaultProxy, Phase
from support.scripted import Peer, Received, ScriptedUpstream, head
from support.server import Server, declared, start_server

SLOTS, SERVICE_S = 10, 0.2
CAPACITY = SLOTS / SERVICE_S
BATCH = 3
DEADLINE_S = 10.0
ATTEMPT_S = 2.0
MOST = 60
"""The most the adaptive limit may come to."""
SCRAPE_S = 0.2
STATES = ("closed", "open", "half_open")
_OK = head(200, {"content-length": "0"})
_UNAVAILABLE = head(503, {"content-length": "0"})


class Outage(StrEnum):
    REFUSED = "refused"
    RESET = "reset"
    UNAVAILABLE = "503"
    SILENT = "silent"


class Api:
    """So many slots behind a fault proxy; what is not answered by the proxy's fault is by its own."""

    def __init__(self, outage: Outage) -> None:
        self.outage = outage
        self.name = f"api-{outage}"
        self.upstream = ScriptedUpstream()
        self.upstream.play("/", self._serve)
        self._free_at = [0.0] * SLOTS
        self._down = False

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Api]:
        async with self.upstream, FaultProxy(self.upstream.port) as self.proxy:
            yield self

    @property
    def policy(self) -> dict[str, Any]:
        timeout = {"attempt": f"{ATTEMPT_S}s"}
        return declared(self.proxy.url, timeout=timeout, concurrency={"adaptive": {"max": MOST}})

    async def fail(self) -> None:
        self._down = True
        if self.outage in (Outage.REFUSED, Outage.RESET):
            fault = Fault.DOWN if self.outage is Outage.REFUSED else Fault.RESET
            await self.proxy.strike(fault, Phase.CONNECT)
            self.proxy.cut()

    async def recover(self) -> None:
        self._down = False
        await self.proxy.lift()

    async def _serve(self, request: Received, peer: Peer) -> None:
        if self._down and self.outage is Outage.SILENT:
            await peer.gone()
        elif self._down:
            peer.write(_UNAVAILABLE)
        else:
            # By the clock, so that a busy machine serves as many; nor does who hangs up give its slot back.
            now = time.perf_counter()
            over_at = max(now, heappop(self._free_at)) + SERVICE_S * random.uniform(0.9, 1.1)
            heappush(self._free_at, over_at)
            await asyncio.sleep(over_at - now)
            peer.write(_OK)


@dataclass(frozen=True, slots=True)
class Done:
    """One item: when it was offered, when its outcome came, and what that was."""

    offered_at: float
    done_at: float
    code: str
    attempts: int
    retry_after_ms: float | None
    took_s: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What the service's metrics said of one upstream at one moment."""

    at: float
    sends: float
    in_flight: float
    limit: float
    breaker: str
    circuit_open: float


@dataclass(slots=True)
class Record:
    """All that came of one API's outage; moments are `time.perf_counter()`."""

    outage: Outage
    per_s: float
    began_at: float = 0.0
    down_at: float = 0.0
    up_at: float = 0.0
    offered: list[float] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    urgent: list[Done] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    def offered_in(self, since: float, until: float) -> int:
        return sum(since <= at < until for at in self.offered)

    def goodput(self, since: float, until: float) -> float:
        """Successes that came in this time, over what was offered in it."""
        good = sum(since <= one.done_at < until for one in self.done if one.code == "success")
        return good / (self.per_s * (until - since))

    def fate(self, since: float, until: float) -> float:
        """The share of what was offered in this time that came to a success."""
        codes = [one.code for one in self.done if since <= one.offered_at < until]
        return codes.count("success") / len(codes)

    def sends_by(self, at: float) -> float:
        """Sends up to the last look before a moment."""
        return max((seen.sends for seen in self.seen if seen.at <= at), default=0.0)

    @property
    def opened_at(self) -> float | None:
        return next((seen.at for seen in self.seen if seen.breaker != "closed"), None)

    @property
    def closed_at(self) -> float | None:
        """From when on it stayed closed."""
        last = max((n for n, seen in enumerate(self.seen) if seen.breaker != "closed"), default=-1)
        return self.seen[last + 1].at if last + 1 < len(self.seen) else None

    def codes(self) -> Counter[str]:
        return Counter(one.code for one in self.done)


async def suffer(
    outages: Sequence[Outage], folder: Path, *, per_s: float, healthy_s: float, down_s: float, after_s: float
) -> list[tuple[Api, Record]]:
    """Let APIs go down and up again while items for each arrive at `per_s`; one service for all of them."""
    async with AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(Api(outage).up()) for outage in outages]
        config = {"upstreams": {api.name: api.policy for api in apis}}
        server = await stack.enter_async_context(start_server(config, folder / "paceline.yaml"))
        connector = aiohttp.TCPConnector(limit=0)
        http = await stack.enter_async_context(aiohttp.ClientSession(server.base_url, connector=connector))
        records = [Record(api.outage, per_s) for api in apis]
        ends_at = time.perf_counter() + healthy_s + down_s + after_s
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(_look(server, apis, records, over))
            async with asyncio.TaskGroup() as calling:
                for api, record in zip(apis, records, strict=True):
                    record.began_at = time.perf_counter()
                    calling.create_task(_stream(http, api, record, ends_at))
                    calling.create_task(_trouble(http, api, record, healthy_s, down_s))
            await asyncio.sleep(2 * SCRAPE_S)
            over.set()
            await looking
    return list(zip(apis, records, strict=True))


async def _trouble(http: aiohttp.ClientSession, api: Api, record: Record, healthy_s: float, down_s: float) -> None:
    """Down after a time, and up again; while it is down, an interactive call every quarter of a second."""
    body = {"requests": [{"upstream": api.name, "path": "/"}], "priority": "interactive", "deadline": f"{DEADLINE_S}s"}
    await asyncio.sleep(healthy_s)
    await api.fail()
    record.down_at = now = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        while now < record.down_at + down_s:
            group.create_task(_batch(http, body, now, record.urgent))
            await asyncio.sleep(0.25)
            now = time.perf_counter()
        await api.recover()
        record.up_at = time.perf_counter()


async def _stream(http: aiohttp.ClientSession, api: Api, record: Record, ends_at: float) -> None:
    """Small batches at their own times, whatever becomes of those before them."""
    every_s = BATCH / record.per_s
    items = [{"upstream": api.name, "path": "/"}] * BATCH
    body = {"requests": items, "defaults": {"expect": "none"}, "deadline": f"{DEADLINE_S}s"}
    next_at = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        while next_at < ends_at:
            await asyncio.sleep(max(0.0, next_at - time.perf_counter()))
            record.offered += [next_at] * BATCH
            group.create_task(_batch(http, body, next_at, record.done))
            next_at += every_s


async def _batch(http: aiohttp.ClientSession, body: dict[str, Any], offered_at: float, done: list[Done]) -> None:
    asked_at = time.perf_counter()
    async with http.post("/v1/batch", json=body) as answer:
        assert answer.status == 200, await answer.text()
        responses = (await answer.json())["responses"]
    assert [response["index"] for response in responses] == list(range(len(body["requests"])))
    for response in responses:
        timing, error = response["timing"], response["error"] or {}
        took_s = (timing["start_ms"] + timing["total_ms"]) / 1000
        code, after_ms = error.get("code", "success"), error.get("retry_after_ms")
        done.append(Done(offered_at, asked_at + took_s, code, response["attempts"], after_ms, took_s))


async def _look(server: Server, apis: Sequence[Api], records: Sequence[Record], over: asyncio.Event) -> None:
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
            record.seen.append(_seen(at, {metric: value for (metric, name), value in sums.items() if name == api.name}))
        await asyncio.sleep(SCRAPE_S)


def _seen(at: float, values: Mapping[str, float]) -> Seen:
    in_flight = values["paceline_in_flight"]
    (breaker,) = [state for state in STATES if values[f"paceline_breaker_state {state}"]]
    return Seen(
        at,
        values.get("paceline_attempts_total", 0.0) + in_flight,
        in_flight,
        values["paceline_concurrency_limit"],
        breaker,
        values.get("paceline_rejections_total circuit_open", 0.0),
    )
