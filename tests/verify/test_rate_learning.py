"""A limit that is neither declared nor advertised, learned over real sockets from plain refusals."""

from __future__ import annotations

import pytest

from paceline.app import Service
from paceline.config import Config
from paceline.model import Batch, Item, ItemRetry
from tools.demo_server import StartDemo

pytestmark = pytest.mark.verify

SETTLED_S, RUN_S, LIMIT = 30, 45, 100


async def test_an_unknown_limit_is_used_after_half_a_minute_and_hardly_overrun(demo_upstream: StartDemo) -> None:
    api = await demo_upstream(limit=LIMIT, latency="10ms")
    service = Service(Config.model_validate({"upstreams": {"api": {"base_url": api.url, "allow_private": True}}}))
    items = [Item(upstream="api", path=f"/{n}") for n in range(LIMIT * (RUN_S + 5))]
    outcomes = []
    await service.runner.run(Batch(items=items, deadline_s=RUN_S, retry=ItemRetry(throttles=1000)), outcomes.append)
    await service.close()
    stats = await api.stats()
    settled = [moment for moment in stats["arrivals"] if moment - stats["first_at"] >= SETTLED_S]
    assert len(settled) / (RUN_S - SETTLED_S) >= 0.9 * LIMIT
    refused = [moment for moment in stats["refusals"] if moment - stats["first_at"] >= SETTLED_S]
    print(f"used {len(settled) / (RUN_S - SETTLED_S) / LIMIT:.1%}, refused {len(refused)} of {len(settled)} settled")
    assert len(refused) <= 0.02 * (len(refused) + len(settled))
    assert stats["refused"] <= 0.02 * stats["accepted"] + 40  # the first half minute, in which it learns, included
    assert len(outcomes) == len(items)
