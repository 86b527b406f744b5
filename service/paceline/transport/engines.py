"""Engines by name. Each library is imported when its engine is first opened: a cold start pays for one at most."""

from __future__ import annotations

from paceline.model import EngineName
from paceline.transport.base import Transport, TransportOptions
from paceline.transport.egress import EgressGuard

DEFAULT_ENGINE: EngineName = "aiohttp"


def open_engine(name: EngineName, options: TransportOptions, guard: EgressGuard) -> Transport:
    """The engine of this name, open for one upstream; to be closed by whom it is given to. Needs a running loop."""
    if name == "aiohttp":
        from paceline.transport.aiohttp import AiohttpTransport

        return AiohttpTransport(options, guard)
    from paceline.transport.httpx import HttpxTransport

    return HttpxTransport(options, guard)
