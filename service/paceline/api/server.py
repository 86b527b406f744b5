"""The server under the app: uvicorn on httptools, without its own signals, ending without a traceback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Above the minute that load balancers keep a connection, so that they are the ones to close it."""

LAST_WORDS_S = 3.0
"""How long callers may take to read what is written when everything else has ended."""


class Server(uvicorn.Server):
    """Serves until `should_exit`. A subclass because that is how uvicorn lets its signals and its start be replaced."""

    def __init__(self, app: ASGIApp, on_started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        self._on_started = on_started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: whoever serves decides what a signal means."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn would cancel the requests that remain, and log each as a fault. Cutting their connections ends them
        # as callers that have hung up.
        cutting = asyncio.get_running_loop().call_later(LAST_WORDS_S, self._cut)
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    def _cut(self) -> None:
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
