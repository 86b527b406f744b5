"""A service in trouble of every kind at once: all strategies, a limit, throttles, failures, refusals, too much work.

Everything the dashboards show is then there to be seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tools.paceline_server import PacelineServer, start_server, upstream_config
from tools.scripted_upstream import Handler, Peer, ReceivedRequest, ScriptedUpstream, disconnect, respond_with

STRATEGIES = ("sequential", "concurrent", "bounded", "token_bucket", "adaptive")
_MAX_IN_FLIGHT_ITEMS = 200


@asynccontextmanager
async def faulty_service(folder: Path, *, cycle_s: float = 6) -> AsyncIterator[PacelineServer]:
    """Serve three upstreams and call them until the end: `steady` is limited, `strict` throttles, `shaky` fails.

    They throttle for a sixth and fail for a half of each cycle.
    """
    async with ScriptedUpstream() as upstream:
        upstream.script("/steady/", respond_with(json={"ok": True}, delay_s=0.03))
        upstream.script("/strict/", _throttle_periodically(cycle_s))
        upstream.script("/shaky/", _fail_periodically(cycle_s))
        upstream.script_response("/shaky/missing", status=404)
        upstream.script("/shaky/silent", disconnect())
        upstream.script_response("/shaky/slow", delay_s=2)
        shaky = {
            "retry": {"attempts": 3, "base": "50ms", "budget_ratio": 0.05, "budget_per_s": 1},
            "breaker": {"min_calls": 10, "window": "2s", "open": "400ms", "max_open": "1s"},
            "timeout": {"attempt": "300ms"},
        }
        config = {
            "server": {"max_in_flight_items": _MAX_IN_FLIGHT_ITEMS},
            "upstreams": {
                "steady": upstream_config(
                    f"{upstream.url}/steady", rate=[{"limit": 25, "per": "1s", "burst": 5}], concurrency={"limit": 4}
                ),
                "strict": upstream_config(f"{upstream.url}/strict", rate=[{"limit": 30, "per": "1s"}]),
                "shaky": upstream_config(f"{upstream.url}/shaky", **shaky),
            },
        }
        async with start_server(config, folder / "paceline.yaml") as server, asyncio.TaskGroup() as callers:
            calling = [callers.create_task(_send_batches(server, strategy)) for strategy in STRATEGIES]
            calling.append(callers.create_task(_overload(server)))
            yield server
            for caller in calling:
                caller.cancel()


async def _send_batches(server: PacelineServer, strategy: str) -> None:
    """Batches of one strategy, one after the other, to all upstreams and to one that is not allowed."""
    items = [
        *[{"upstream": "steady", "path": "/"}] * 8,
        *[{"upstream": "strict", "path": "/"}] * 4,
        *[{"upstream": "shaky", "path": path} for path in ("/", "/", "/", "/missing", "/silent", "/slow")],
        {"url": "http://127.0.0.1:1/"},
    ]
    batch: dict[str, Any] = {"strategy": strategy, "deadline": "8s", "requests": items}
    if strategy in ("bounded", "token_bucket", "adaptive"):
        batch["max_concurrency"] = 6
    if strategy == "token_bucket":
        batch["rate"] = {"limit": 20, "per": "1s"}
    with suppress(asyncio.CancelledError):
        while True:
            status, answer = await server.post("/v1/batch", batch)
            assert status in (200, 503), answer
            await asyncio.sleep(0.1)


async def _overload(server: PacelineServer) -> None:
    """Send large batches that the service has no capacity for in addition to the others."""
    items = [{"upstream": "shaky", "path": "/", "expect": "none"}] * (_MAX_IN_FLIGHT_ITEMS - 10)
    with suppress(asyncio.CancelledError):
        while True:
            await server.post("/v1/batch", {"deadline": "1s", "requests": items})
            await asyncio.sleep(2)


def _throttle_periodically(cycle_s: float) -> Handler:
    """At the beginning of each cycle it refuses whatever comes."""

    async def act(request: ReceivedRequest, peer: Peer) -> None:
        throttled = asyncio.get_running_loop().time() % cycle_s < cycle_s / 6
        answer = respond_with(status=429, headers={"retry-after": "2"}) if throttled else respond_with(delay_s=0.02)
        await answer(request, peer)

    return act


def _fail_periodically(cycle_s: float) -> Handler:
    """Failing for half of each cycle, then well."""

    async def act(request: ReceivedRequest, peer: Peer) -> None:
        failing = asyncio.get_running_loop().time() % cycle_s < cycle_s / 2
        await respond_with(status=503 if failing else 200, delay_s=0.01)(request, peer)

    return act
