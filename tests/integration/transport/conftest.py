"""The contract suite runs on every engine and on both event loops Paceline runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from paceline.transport.base import Transport, TransportOptions
from paceline.transport.egress import EgressGuard
from paceline.transport.engines import EngineName, open_engine

OpenEngine = Callable[..., Transport]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=["aiohttp", "httpx"])
def engine_name(request: pytest.FixtureRequest) -> EngineName:
    return request.param


@pytest.fixture
async def open_transport(engine_name: EngineName) -> AsyncIterator[OpenEngine]:
    """Open the engine under test: `open_transport(guard=..., max_response=...)`; keywords are those of `Wire`."""
    opened: list[Transport] = []

    def open_one(*, guard: EgressGuard | None = None, **wire: object) -> Transport:
        settings = {"allow_private": True, "connect_timeout_s": 10.0, "dns_timeout_s": 10.0} | wire
        opened.append(open_engine(engine_name, TransportOptions(**settings), guard or EgressGuard()))
        return opened[-1]

    yield open_one
    for transport in opened:
        await transport.close()


@pytest.fixture
async def transport(open_transport: OpenEngine) -> Transport:
    return open_transport()
