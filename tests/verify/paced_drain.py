"""Drains items through the real `paceline serve` into a strict API in a process of its own, and says how it went.

What is used is the share of the rate between the first arrival and the last, as the API saw them. The machine may be
busy with other work, so a drain that was too slow is repeated, and the best of three counts; what was refused is added
up over all of them. Only a drain in which the API's own process was kept from counting for nearly `transit` says
nothing of refusals: no client can know when such an API counts. It is shown, and repeated.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tools.paceline_server import PacelineServer, start_server, upstream_config
from tools.processes import LISTENING_PATTERN, start_process

BATCH_ITEMS = 1000
"""Items in a batch: the maximum that the service accepts by default."""
CALLERS = 4
_MAX_TRIES = 3
_MAX_VOID_TRIES = 3
_MAX_API_LAG_S = 0.04
_TIMEOUT_S = 600
_JSON = {"content-type": "application/json"}

Arrivals = Sequence[float]
Fields = dict[str, Any]


def at_path(index: int) -> Fields:
    return {"path": f"/items/{index}"}


@dataclass(frozen=True, slots=True)
class Case:
    """An API with its limit, and the number of items for it."""

    limit: int
    items: int
    least_used: float
    per_s: int = 1
    burst: int = 1
    api: tuple[str, ...] = ()
    """More options of the API."""
    policy: Fields = field(default_factory=dict)
    """More of the upstream's configuration."""
    item: Callable[[int], Fields] = at_path
    ssl_context: ssl.SSLContext | None = None
    usage_of: Callable[[Arrivals], float] | None = None
    """How much was used, where it is not counted in beats of the first limit."""

    def used(self, arrivals: Arrivals) -> float:
        if self.usage_of is not None:
            return self.usage_of(arrivals)
        return (len(arrivals) - 1) * self.per_s / self.limit / (arrivals[-1] - arrivals[0])

    def config(self, url: str) -> Fields:
        usual = {
            "rate": [{"limit": self.limit, "per": f"{self.per_s}s", "burst": self.burst}],
            "concurrency": {"limit": 1000},
            "timeout": {"attempt": "60s", "item": "120s"},
            "retry": {"attempts": 1},
        }
        return upstream_config(url, **{**usual, **self.policy})


@dataclass(frozen=True, slots=True)
class Drain:
    """What one drain came to."""

    used: float
    refused: int
    late_s: float
    """The longest that the API's own process was kept from counting."""

    @property
    def void(self) -> bool:
        return self.refused > 0 and self.late_s > _MAX_API_LAG_S


@dataclass(slots=True)
class Result:
    """All drains of a case."""

    case: Case
    drains: list[Drain] = field(default_factory=list)

    @property
    def valid(self) -> list[Drain]:
        return [drain for drain in self.drains if not drain.void]

    @property
    def used(self) -> float:
        return max((drain.used for drain in self.valid), default=0.0)

    @property
    def refused(self) -> int:
        return sum(drain.refused for drain in self.valid)

    @property
    def sent(self) -> int:
        return len(self.valid) * self.case.items

    @property
    def settled(self) -> bool:
        return self.used >= self.case.least_used or len(self.valid) >= _MAX_TRIES

    def __str__(self) -> str:
        case = self.case
        shown = "; ".join(
            f"{drain.used:.2%} used, {drain.refused} refused{' (void)' if drain.void else ''}, "
            f"API late by {1000 * drain.late_s:.0f} ms"
            for drain in self.drains
        )
        return f"{case.limit} per {case.per_s} s {' '.join(case.api)}: {shown}"


class StrictApi:
    """A strict API in a process of its own."""

    def __init__(self, url: str, ssl_context: ssl.SSLContext | None = None) -> None:
        self.url = url
        self._ssl: ssl.SSLContext | bool = ssl_context or True

    async def stats(self) -> Fields:
        return await self._call("GET", "/stats")

    async def control(self, **change: Any) -> None:
        await self._call("POST", "/control", json=change)

    async def _call(self, method: str, path: str, **more: Any) -> Fields:
        async with aiohttp.request(method, self.url + path, ssl=self._ssl, **more) as answer:
            assert answer.status == 200, await answer.text()
            return dict(await answer.json())


@asynccontextmanager
async def start_strict_api(case: Case) -> AsyncIterator[StrictApi]:
    limit = ("--limit", str(case.limit), "--per", f"{case.per_s}s")
    async with start_process(sys.executable, "-m", "paceline.demo.server", *limit, *case.api) as running:
        yield StrictApi((await running.wait_for_output(LISTENING_PATTERN))[1], case.ssl_context)


@asynccontextmanager
async def serve_cases(cases: Sequence[Case], folder: Path) -> AsyncIterator[tuple[PacelineServer, list[StrictApi]]]:
    """One service, and an API for each case, declared as `api0`, `api1` and so on."""
    async with AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(start_strict_api(case)) for case in cases]
        upstreams = {f"api{n}": case.config(api.url) for n, (case, api) in enumerate(zip(cases, apis, strict=True))}
        server = await stack.enter_async_context(start_server({"upstreams": upstreams}, folder / "paceline.yaml"))
        yield server, apis


async def send_items(server: PacelineServer, name: str, case: Case) -> Fields:
    """Send a case's items through, in batches of which a few wait at any time; the summaries added up."""
    starts = iter(range(0, case.items, BATCH_ITEMS))
    total: Fields = {"succeeded": 0, "failed": 0, "rejected": 0, "attempts": 0}

    async def caller() -> None:
        for first in starts:
            items = range(first, min(first + BATCH_ITEMS, case.items))
            body = {
                "requests": [case.item(index) for index in items],
                "defaults": {"upstream": name, "expect": "none", "timeout": f"{_TIMEOUT_S}s"},
                "deadline": f"{_TIMEOUT_S}s",
            }
            far = aiohttp.ClientTimeout(total=_TIMEOUT_S)
            async with server.http.post("/v1/batch", data=json.dumps(body), headers=_JSON, timeout=far) as answer:
                assert answer.status == 200, await answer.text()
                summary = json.loads(await answer.read())["summary"]
            for what in total:
                total[what] += summary[what]

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return total


async def drain(server: PacelineServer, name: str, api: StrictApi, case: Case) -> Drain:
    """Send a case's items through, and ask its API what it saw."""
    total = await send_items(server, name, case)
    stats = await api.stats()
    assert stats["accepted"] == total["succeeded"], total
    assert stats["accepted"] + stats["refused"] == case.items, total
    return Drain(case.used(stats["arrivals"]), stats["refused"], stats["late_max_s"])


async def drain_all(folder: Path, *cases: Case) -> list[Result]:
    """Drain all cases at one time, and again those that were too slow."""
    results = [Result(case) for case in cases]
    for number in range(_MAX_TRIES + _MAX_VOID_TRIES):
        open_ones = [result for result in results if not result.settled]
        if not open_ones:
            break
        folder_of_try = folder / str(number)
        folder_of_try.mkdir()
        async with serve_cases([result.case for result in open_ones], folder_of_try) as (server, apis):
            drains = await asyncio.gather(
                *(
                    drain(server, f"api{n}", api, result.case)
                    for n, (result, api) in enumerate(zip(open_ones, apis, strict=True))
                )
            )
        for result, one in zip(open_ones, drains, strict=True):
            result.drains.append(one)
    for result in results:
        print(result)
    return results
