"""Start 50, end them at a random moment: by their deadline, by a caller that leaves, by halt. Nothing may be left.

The whole service runs on the test's own loop, with real sockets on both sides, so that every permit, token, trial,
socket, task and file descriptor can be counted. `make test` runs a few rounds of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from typing import Any

import pytest
import uvloop

from paceline.admission.upstream_health import UpstreamHealth
from paceline.model import EngineName
from support.in_memory_upstream import is_idle
from support.in_process_api import InProcessApi, one_upstream_config, start_api
from tools.scripted_upstream import Peer, ReceivedRequest, ScriptedUpstream, response_head
from tools.waiting import wait_until

ITEMS = 50
LIMIT, PER_S = 4000, 0.5
AT_ONCE = 20
POLICY: dict[str, Any] = {
    "rate": [{"limit": LIMIT, "per": f"{PER_S}s"}],
    "concurrency": {"limit": AT_ONCE},
    "retry": {"attempts": 2, "base": "1ms", "cap": "3ms"},
}
NERVOUS = {
    "breaker": {"ratio": 0.02, "min_calls": 3, "window": "100ms", "open": "5ms", "max_open": "10ms", "trials": 2}
}
"""It opens at every other failure, so that calls are ended while they are trials."""

ENDS = ("deadline", "leave", "halt")


class Rounds:
    """Rounds against one service, and what came of them."""

    def __init__(self, api: InProcessApi, upstream: ScriptedUpstream, chosen: random.Random) -> None:
        self._api = api
        self._upstream = upstream
        self._chosen = chosen
        self.seen: Counter[str] = Counter()
        self.trips = 0

    async def one(self) -> None:
        end = self._chosen.choice(ENDS)
        body: dict[str, Any] = {
            "requests": [self._item() for _ in range(ITEMS)],
            "strategy": self._chosen.choice(["adaptive", "concurrent", "bounded"]),
        }
        if end == "leave":
            await self._leave(json.dumps(body).encode())
        else:
            if end == "deadline":
                body["deadline"] = f"{self._chosen.uniform(1, 40):.3f}ms"
            else:
                body["on_failure"] = "halt"
                body["requests"][self._chosen.randrange(ITEMS)]["path"] = "/fails"
            self._count(end, await self._api.request("POST", "/v1/batch", body))
        await self._all_is_back()

    def _item(self) -> dict[str, Any]:
        path = self._chosen.choice(["/quick", "/quick", "/slow", "/half", "/again"])
        return {"upstream": self._chosen.choice(["api", "nervous"]), "path": path}

    async def _leave(self, body: bytes) -> None:
        """Send a batch over a connection of its own and end it, politely or not."""
        form = self._chosen.choice(["application/json", "application/x-ndjson"])
        _, writer = await asyncio.open_connection("127.0.0.1", self._api.port)
        writer.write(
            b"POST /v1/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"accept: %b\r\ncontent-length: %d\r\n\r\n%b" % (form.encode(), len(body), body)
        )
        await asyncio.sleep(self._chosen.uniform(0, 0.04))
        if self._chosen.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()
        self.seen["left"] += 1

    def _count(self, end: str, answer: Any) -> None:
        assert answer.status == 200, answer
        outcomes = answer.body["responses"]
        assert [outcome["index"] for outcome in outcomes] == list(range(ITEMS))
        for outcome in outcomes:
            self.seen[outcome["outcome"]] += 1
        if end == "halt":
            assert answer.body["summary"]["succeeded"] < ITEMS

    async def _all_is_back(self) -> None:
        service = self._api.service
        assert await self._api.load_shedder.wait_idle(10)
        await wait_until(lambda: service.runner.active_batches == 0)
        assert is_idle(service)
        assert service.registry._socket_pool.in_flight == 0
        for health in healths(self._api):
            assert health.breaker._trials_in_flight == 0
            self.trips = max(self.trips, health.breaker._period)
        held = self._api.load_shedder.usage
        assert (held.items, held.body_bytes, held.response_bytes) == (0, 0, 0)


def healths(api: InProcessApi) -> list[UpstreamHealth]:
    return [each.async_gate.gate.health for each in api.service.registry if each.async_gate.gate.health is not None]


def scripted(upstream: ScriptedUpstream, chosen: random.Random) -> None:
    async def slow(request: ReceivedRequest, peer: Peer) -> None:
        await asyncio.sleep(chosen.uniform(0, 0.02))
        peer.write(response_head(200, {"content-length": "2"}) + b"ok")

    async def half(request: ReceivedRequest, peer: Peer) -> None:
        peer.write(response_head(200, {"content-length": "4"}) + b"ha")
        await asyncio.sleep(chosen.uniform(0, 0.02))
        peer.write(b"lf")

    async def fails(request: ReceivedRequest, peer: Peer) -> None:
        await asyncio.sleep(chosen.uniform(0, 0.01))
        peer.write(response_head(404, {"content-length": "0"}))

    async def again(request: ReceivedRequest, peer: Peer) -> None:
        status = 503 if chosen.random() < 0.3 else 200
        peer.write(response_head(status, {"content-length": "0"}))

    for path, act in {"/slow": slow, "/half": half, "/fails": fails, "/again": again}.items():
        upstream.script(path, act)
        upstream.script(f"/nervous{path}", act)


def counted() -> tuple[int, int]:
    """File descriptors and tasks."""
    return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())


async def rounds(count: int, engine: EngineName, seed: int) -> Counter[str]:
    chosen = random.Random(seed)
    await asyncio.sleep(0)
    async with ScriptedUpstream() as upstream:
        scripted(upstream, chosen)
        before = counted()
        config = one_upstream_config(upstream.url, engine=engine, **POLICY)
        config["upstreams"]["nervous"] = {
            **config["upstreams"]["api"],
            "base_url": f"{upstream.url}/nervous",
            **NERVOUS,
        }
        async with start_api(config) as api:
            running = Rounds(api, upstream, chosen)
            for _ in range(count):
                await running.one()
            await upstream.wait_until(lambda it: it.in_progress == 0)
            for each in api.service.registry:
                (window,) = each.async_gate.gate.budgets.snapshot()[0].windows
                await wait_until(lambda window=window: window.remaining(time.perf_counter(), 0.05) == LIMIT)
                whole = await api.send_batch(*[{"upstream": each.name, "path": "/quick"}] * 2 * AT_ONCE)
                assert whole["summary"]["succeeded"] == 2 * AT_ONCE
            assert running.trips > count / 10
        await upstream.wait_until(lambda it: it.open_connections == 0)
        await wait_until(lambda: counted() == before)
    return running.seen


@pytest.mark.parametrize("engine", ["aiohttp", "httpx"])
@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.verify)])
def test_whatever_ends_them_and_whenever_nothing_is_left(engine: EngineName, count: int) -> None:
    seen = uvloop.run(rounds(count, engine, seed=count))
    print(engine, dict(seen))
    assert {"success", "deadline_exceeded", "left"} <= seen.keys()
    if count > 100:
        assert {"cancelled", "rejected", "http_error"} <= seen.keys()
