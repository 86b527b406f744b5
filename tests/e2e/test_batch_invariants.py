"""What is promised of every batch, whatever becomes of its items; on both engines."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from support.shared_service import ENGINES, SharedService, send_batch, shared_service, unaccounted_ms
from tools.scripted_upstream import Peer, ReceivedRequest, disconnect, never_respond, response_head, send_garbage

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITED: dict[str, Any] = {"rate": [{"limit": 20, "per": "500ms"}], "transit": "200ms", "retry": {"base": "10ms"}}
NEVER_LEFT_ALONE: dict[str, Any] = {"breaker": {"min_calls": 100_000}}
MIXED: dict[str, Any] = {"concurrency": {"limit": 20}, "timeout": {"attempt": "400ms"}, **NEVER_LEFT_ALONE}
STRATEGIES = ["concurrent", "bounded", "adaptive"]
POLICIES: dict[str, dict[str, Any]] = {
    **{f"mixed-{strategy}": MIXED for strategy in STRATEGIES},
    "receipts": {"rate": [{"limit": 30, "per": "1s"}], "concurrency": {"limit": 20}, **NEVER_LEFT_ALONE},
    "limited": LIMITED,
    "capped": {"concurrency": {"limit": 5}},
    "down": {"retry": {"base": "10ms", "cap": "50ms"}},
    "counted": {"retry": {"base": "1ms", "cap": "2ms"}, **NEVER_LEFT_ALONE},
    "busy": {},
}


@pytest.fixture(scope="module")
def admin_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, admin_port: int
) -> AsyncIterator[SharedService]:
    folder = tmp_path_factory.mktemp(f"promises-{request.param}")
    sections = {"server": {"admin_port": admin_port}, "egress": {"mode": "declared"}}
    async with shared_service(request.param, POLICIES, folder, **sections) as service:
        yield service


async def test_every_item_has_its_outcome_in_order_by_the_deadline(shared: SharedService) -> None:
    await asyncio.gather(*(everything_happens(shared, strategy) for strategy in STRATEGIES))


async def everything_happens(shared: SharedService, strategy: str) -> None:
    """To a batch of 150 items."""
    api = shared.upstream_named(f"mixed-{strategy}")
    acts = {"/silent": never_respond(), "/garbage": send_garbage(), "/hangs-up": disconnect()}
    for path, act in acts.items():
        api.script(path, act)
    api.script_response("/broken", status=503)
    api.script_response("/slow", delay_s=0.2)
    paths = [*acts, "/broken", "/slow", "/fine", "/fine", "/fine"]
    chosen = random.Random(7)
    asked = [api.item(chosen.choice(paths), id=f"item-{n}") for n in range(150)]
    asked[10::25] = [{"url": "http://10.0.0.1/"}] * len(asked[10::25])
    asked[17::30] = [api.item("/after", depends_on=["item-0"])] * len(asked[17::30])
    asked[5::50] = [api.item("/silent", timeout="60s")] * len(asked[5::50])
    deadline_ms = 1_500
    outcomes = await send_batch(shared.server, asked, strategy=strategy, deadline=f"{deadline_ms}ms")
    ended_ms = max(outcome["timing"]["start_ms"] + outcome["timing"]["total_ms"] for outcome in outcomes)
    assert ended_ms <= 20_000  # of itself it would take a minute; make verify measures by how much it is late
    assert len({outcome["outcome"] for outcome in outcomes}) >= 4


async def test_no_more_than_the_limit_arrives_in_any_window_whoever_sends(shared: SharedService) -> None:
    api = shared.upstream_named("limited")
    api.script_response("/flaky", status=503, times=5)
    api.script_response("/throttled", status=429, headers={"retry-after": "0.1"}, times=2)
    api.script_response("/slow", delay_s=0.3)

    def some(*paths: str) -> list[dict[str, Any]]:
        return [api.item(path, method="POST", idempotent=True) for path in paths]

    fetching = [shared.server.post("/v1/fetch", api.item("/fetched")) for _ in range(5)]
    await asyncio.gather(
        send_batch(shared.server, some(*["/flaky", "/fine"] * 7), strategy="concurrent"),
        send_batch(shared.server, some(*["/fine"] * 6), strategy="sequential"),
        send_batch(shared.server, some(*["/slow", "/throttled"] * 5), strategy="bounded", max_concurrency=9),
        send_batch(shared.server, some(*["/fine"] * 15), priority="bulk"),
        *fetching,
    )
    moments = sorted(received.at for received in api.requests)
    assert len(moments) >= 50
    most = max(sum(start <= moment < start + 0.49 for moment in moments) for start in moments)
    assert most <= 20


async def test_the_cap_is_hard_also_when_callers_leave(shared: SharedService) -> None:
    api = shared.upstream_named("capped")
    here, most = 0, 0

    async def counting(request: ReceivedRequest, peer: Peer) -> None:
        nonlocal here, most
        await asyncio.sleep(0.02)  # one whose caller has left is gone by now
        here += 1
        most = max(most, here)
        try:
            await asyncio.sleep(0.1)
        finally:
            here -= 1
        peer.write(response_head(200, {"content-length": "0"}))

    api.script("/x", counting)
    chosen = random.Random(3)
    for _ in range(12):
        asking = asyncio.create_task(shared.server.post("/v1/batch", {"requests": [api.item("/x")] * 12}))
        await asyncio.sleep(chosen.uniform(0.01, 0.12))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    outcomes = await send_batch(shared.server, [api.item("/x")] * 12)
    assert {outcome["outcome"] for outcome in outcomes} == {"success"}
    assert most <= 5
    _, state = await shared.server.get("/v1/upstreams/capped")
    assert (state["in_flight"], state["queued"]) == (0, 0)


async def test_an_upstream_that_is_down_is_not_hammered(shared: SharedService) -> None:
    api = shared.upstream_named("down")
    api.script_response("/x", status=500)
    began_at = time.perf_counter()
    outcomes = await send_batch(shared.server, [api.item("/x")] * 120, strategy="concurrent", deadline="2s")
    took_s = time.perf_counter() - began_at
    assert {outcome["outcome"] for outcome in outcomes} <= {"http_error", "rejected", "deadline_exceeded"}
    assert len(api.requests) <= 1.2 * 120 + 3 * (took_s + 1)


async def test_receipts_add_up_to_their_totals(shared: SharedService) -> None:
    api = shared.upstream_named("receipts")
    api.script_response("/again", status=503, times=10)
    api.script_response("/slow", delay_s=0.2)
    asked = [api.item(path) for path in ("/fine", "/slow", "/again") for _ in range(15)]
    outcomes = await send_batch(shared.server, asked)
    gaps = sorted(unaccounted_ms(each) - max(20.0, 0.1 * each["timing"]["total_ms"]) for each in outcomes)
    assert gaps[len(gaps) * 3 // 4] <= 0  # the rest may meet a busy machine; `batch` bounds those
    assert {each["timing"]["limited_by"] for each in outcomes} > {"rate"}


async def test_what_callers_send_makes_no_new_series(shared: SharedService) -> None:
    api = shared.upstream_named("counted")
    api.script_response("/odd", status=599)
    api.script_response("/again", status=503)

    def weird(n: int) -> list[dict[str, Any]]:
        return [
            api.item(f"/{n}", id=f"weird-{n}", headers={f"x-{n}": f"{n}"}, params={f"p{n}": f"{n}"}),
            api.item("/odd", method=f"M{n}"),
            api.item("/again", retry={"attempts": 2}),
            {"url": f"http://weird-{n}.example/"},
            {"upstream": f"weird-{n}", "path": "/"},
        ]

    async def send(numbers: range) -> None:
        await send_batch(shared.server, [each for n in numbers for each in weird(n)])
        for n in numbers[:10]:
            await shared.server.get(f"/weird-{n}?{n}", headers={"x-weird": f"{n}"})
            async with shared.server.http.request("PROPFIND", f"/v1/weird-{n}") as answer:
                assert answer.status == 404

    await shared.server.metrics()  # the scrape has series of its own
    await send(range(50))
    before = await series(shared)
    await send(range(50, 150))
    after = await series(shared)
    assert after == before
    assert not any("weird" in each.lower() for each in after)


async def test_health_and_metrics_have_a_port_that_load_cannot_starve(shared: SharedService, admin_port: int) -> None:
    api = shared.upstream_named("busy")
    batches = [
        asyncio.create_task(shared.server.post("/v1/batch", {"requests": [api.item("/x")] * 300})) for _ in range(3)
    ]
    answered = 0
    async with aiohttp.ClientSession(f"http://127.0.0.1:{admin_port}") as http:
        while not all(each.done() for each in batches):
            for path in ("/healthz", "/readyz", "/metrics"):
                async with http.get(path) as answer:
                    assert answer.status == 200
            answered += 1
    assert answered >= 3
    assert [each.result()[1]["summary"]["succeeded"] for each in batches] == [300] * 3


async def series(shared: SharedService) -> set[str]:
    """Every series of our own, without its value."""
    lines = (await shared.server.metrics()).splitlines()
    return {line.rpartition(" ")[0] for line in lines if line.startswith("paceline_") and "_created" not in line}
