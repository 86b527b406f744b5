"""Engines by name. Each library is imported when its engine is first opened, so a start imports one at most."""

from __future__ import annotations

from paceline.model import EngineName
from paceline.transport.base import Transport, TransportOptions
from paceline.transport.egress import EgressGuard

DEFAULT_ENGINE: EngineName = "aiohttp"


def open_engine(name: EngineName, options: TransportOptions, guard: EgressGuard) -> Transport:
    """Open the engine of this name for one upstream; the caller closes it. Needs a running loop."""
    if name == "aiohttp":
        from paceline.transport.aiohttp import AiohttpTransport

        return AiohttpTransport(options, guard)
    from paceline.transport.httpx import HttpxTransport

    return HttpxTransport(options, guard)
