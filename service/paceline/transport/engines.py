"""Engines by name. Each library is imported when its engine is first opened: a cold start pays for one at most."""

from __future__ import annotations

from paceline.model import EngineName
from paceline.transport.base import Transport, Wire
from paceline.transport.egress import Guard

DEFAULT_ENGINE: EngineName = "aiohttp"


def open_engine(name: EngineName, wire: Wire, guard: Guard) -> Transport:
    """The engine of this name, open for one upstream; to be closed by whom it is given to. Needs a running loop."""
    if name == "aiohttp":
        from paceline.transport.aiohttp import AiohttpTransport

        return AiohttpTransport(wire, guard)
    from paceline.transport.httpx import HttpxTransport

    return HttpxTransport(wire, guard)
