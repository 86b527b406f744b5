"""What FastAPI writes of a response model is what the model's own values say: whole numbers whole, infinity as null."""

from __future__ import annotations

import time
from math import inf
from typing import Any

import msgspec
import pytest
from pydantic import TypeAdapter

from paceline.api.routes.strategies import STRATEGIES
from paceline.api.schemas.responses import ClassicResponse, CompareResponse, HealthResponse, UpstreamList
from paceline.batch.compare import StrategyResult
from paceline.batch.plan import Plan, UpstreamPlan, plan_batch
from paceline.model import Batch, Strategy
from paceline.upstream.snapshot import AdvertisedWindowState, BudgetState, RateInfoState, UpstreamState, state_of
from support.in_memory_upstream import InMemoryUpstream, in_memory_service, items, respond_with, run_batch
from support.virtual_clock import virtual_time

RESULT = StrategyResult(Strategy.BOUNDED, "aiohttp", 12.5, 3.0, None, 1.0, 2.25, {"200": 3}, {"success": 3}, 0, 3, 0)
ADVERTISED = AdvertisedWindowState("daily", "requests", 80.5, None, 1000.0, "1d")
BUDGET = BudgetState("upstream", None, 0.0, [], RateInfoState("ietf", None, [ADVERTISED], True))


@pytest.mark.parametrize(
    "response",
    [
        STRATEGIES,
        HealthResponse("not_ready"),
        ClassicResponse("2 of 2 requests succeeded é", [200, 0]),
        CompareResponse("api", 3, False, [RESULT]),
        Plan(None, None, 0, 2, [UpstreamPlan("api", 2, 41250.0, "80/1m", 0, 0, 182.4)]),
        UpstreamList([UpstreamState("api", None, "httpx", True, 1, 2, 3, [BUDGET], "half_open")]),
        RateInfoState("ietf", inf, [], False),
    ],
    ids=lambda response: type(response).__name__,
)
def test_it_is_written_as_its_values_are(response: Any):
    assert as_fastapi_writes_it(response) == msgspec.json.encode(response)


@virtual_time
async def test_live_states_and_plans_are_written_as_their_values_are():
    headers = [("x-ratelimit-limit", "100"), ("x-ratelimit-remaining", "97"), ("x-ratelimit-reset", "30")]
    upstream = InMemoryUpstream(default=respond_with(200, *headers))
    rates = [{"limit": 80, "per": "1m"}, {"limit": 0.5, "per": "2s", "unit": "tokens"}]
    with in_memory_service(upstream, rate=rates) as service:
        await run_batch(service, Batch(items(3)))
        (shown,) = [state_of(each, time.perf_counter()) for each in service.registry]
        plan = await plan_batch(service.registry, Batch(items(200)))
    (budget,) = shown.budgets
    assert {window.source for window in budget.windows} == {"declared", "header"}
    assert as_fastapi_writes_it(shown) == msgspec.json.encode(shown)
    assert b'"limit":80,"per":"1m"' in as_fastapi_writes_it(shown)
    assert as_fastapi_writes_it(plan) == msgspec.json.encode(plan)


def as_fastapi_writes_it(response: object) -> bytes:
    """As `fastapi.routing.serialize_response` does: checked, then written by the model of the route."""
    adapter: TypeAdapter[Any] = TypeAdapter(type(response))
    return adapter.dump_json(adapter.validate_python(response, from_attributes=True), by_alias=True)
