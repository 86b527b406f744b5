"""Upstreams for every folder of tests; all of them on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from hypothesis import settings

from support import hypothesis_profiles
from tools.demo_server import DemoUpstream, StartDemo, start_demo
from tools.scripted_upstream import ScriptedUpstream

settings.load_profile(hypothesis_profiles.FEW)


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """An upstream that answers as the test scripts it."""
    async with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture
async def demo_upstream() -> AsyncIterator[StartDemo]:
    """Start the rate-limited demo API as a process of its own: `await demo_upstream(limit=50, per="1s")`."""
    async with AsyncExitStack() as stack:

        async def start(*, limit: int, per: str = "1s", latency: str = "0ms", **more: str | bool) -> DemoUpstream:
            return await stack.enter_async_context(start_demo(limit=limit, per=per, latency=latency, **more))

        yield start
