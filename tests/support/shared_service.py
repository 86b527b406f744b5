"""One service for a whole module of tests, on one engine: each test has upstreams of its own, by name.

    POLICIES = {"flaky": {"retry": {"base": "10ms"}}}

    @pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
    async def shared(request, tmp_path_factory):
        async with shared_service(request.param, POLICIES, tmp_path_factory.mktemp("shared")) as service:
            yield service

The upstream `flaky` is the scripted upstream's path `/flaky`, so what one test learns or breaks is not another's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.paceline_server import PacelineServer, start_server, upstream_config
from tools.scripted_upstream import Handler, ReceivedRequest, ScriptedUpstream

ENGINES = ["aiohttp", "httpx"]
TIMING_PARTS = ("queue_ms", "rate_wait_ms", "pause_ms", "backoff_ms", "upstream_ms")


@dataclass(frozen=True, slots=True)
class SharedService:
    """The service, ready, and the upstream behind every name it knows."""

    server: PacelineServer
    upstream: ScriptedUpstream
    engine: str

    def upstream_named(self, name: str) -> NamedUpstream:
        return NamedUpstream(self.upstream, name)


@dataclass(frozen=True, slots=True)
class NamedUpstream:
    """One test's part of the upstream: its paths start with its name."""

    scripted: ScriptedUpstream
    name: str

    def item(self, path: str = "/", **fields: Any) -> dict[str, Any]:
        return {"upstream": self.name, "path": path, **fields}

    def script_response(self, path: str, **answer: Any) -> None:
        self.scripted.script_response(f"/{self.name}{path}", **answer)

    def script(self, path: str, handler: Handler, *, times: int | None = None) -> None:
        self.scripted.script(f"/{self.name}{path}", handler, times=times)

    @property
    def requests(self) -> list[ReceivedRequest]:
        return [request for request in self.scripted.requests if request.path.startswith(f"/{self.name}/")]

    def requests_to(self, path: str) -> list[ReceivedRequest]:
        return self.scripted.requests_to(f"/{self.name}{path}")


@asynccontextmanager
async def shared_service(
    engine: str,
    policies: Mapping[str, Mapping[str, Any]],
    folder: Path,
    *,
    external: Mapping[str, Mapping[str, Any]] | None = None,
    **sections: Any,
) -> AsyncIterator[SharedService]:
    """Serve every policy as an upstream of its name; `others` are upstreams elsewhere, `sections` the rest."""
    async with ScriptedUpstream() as upstream:
        upstreams = {
            name: upstream_config(f"{upstream.url}/{name}", engine=engine, **policy)
            for name, policy in policies.items()
        }
        upstreams |= {name: {"engine": engine, **policy} for name, policy in (external or {}).items()}
        async with start_server({"upstreams": upstreams, **sections}, folder / "paceline.yaml") as server:
            yield SharedService(server, upstream, engine)


async def send_batch(server: PacelineServer, requests: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    """The outcomes of a batch, after checking what is true of every batch."""
    status, answer = await server.post("/v1/batch", {"requests": requests, **fields})
    assert status == 200, answer
    outcomes: list[dict[str, Any]] = answer["responses"]
    check_outcomes(requests, outcomes, answer["summary"])
    return outcomes


def check_outcomes(requests: list[dict[str, Any]], outcomes: list[dict[str, Any]], summary: dict[str, int]) -> None:
    """One outcome per item, in order, by its id; counts and receipts that add up; errors where there is no success."""
    assert [outcome["index"] for outcome in outcomes] == list(range(len(requests)))
    assert [outcome["id"] for outcome in outcomes] == [each.get("id", str(n)) for n, each in enumerate(requests)]
    kinds = [outcome["outcome"] for outcome in outcomes]
    attempts = [outcome["attempts"] for outcome in outcomes]
    assert summary == {
        "total": len(requests),
        "succeeded": kinds.count("success"),
        "rejected": kinds.count("rejected"),
        "failed": len(requests) - kinds.count("success") - kinds.count("rejected"),
        "attempts": sum(attempts),
        "retries": sum(max(0, each - 1) for each in attempts),
    }
    for outcome in outcomes:
        # Our own part of the total; a busy test machine stretches it.
        assert -0.1 <= unaccounted_ms(outcome) <= max(2_000.0, 0.1 * outcome["timing"]["total_ms"]), outcome
        assert (outcome["error"] is None) == (outcome["outcome"] == "success"), outcome
        if outcome["outcome"] == "rejected":
            assert (outcome["error"]["sent"], outcome["status"], outcome["body"]) == (False, None, None)


def unaccounted_ms(outcome: dict[str, Any]) -> float:
    """What of an item's total is none of its receipt's five parts."""
    timing = outcome["timing"]
    return float(timing["total_ms"] - sum(timing[part] for part in TIMING_PARTS))


def outcome_kinds(outcomes: list[dict[str, Any]]) -> list[tuple[str, str | None, bool | None]]:
    """Kind, code and whether it was sent, of each."""
    return [
        (
            outcome["outcome"],
            outcome["error"] and outcome["error"]["code"],
            outcome["error"] and outcome["error"]["sent"],
        )
        for outcome in outcomes
    ]
