"""The server under the application: uvicorn on httptools, without its signal handlers, shut down without loss."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from paceline.api.server.http_protocol import SlowClientTimeouts, make_protocol_factory

BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Seconds. Above the 60 s for which load balancers keep an idle connection, so that they close it first."""

FLUSH_TIMEOUT_S = 3.0
"""Seconds that clients have to read the last responses."""

CLOSE_GRACE_S = 0.1
"""Seconds that requests on their way at the close of the listener have to arrive and be refused with a reason."""

_CONNECTION_CLOSE = (b"connection", b"close")


class UvicornServer(uvicorn.Server):
    """Serves until `should_exit`. uvicorn has its signals and its start replaced by a subclass."""

    def __init__(
        self, app: ASGIApp, on_started: Callable[[], None], timeouts: SlowClientTimeouts | None = None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=make_protocol_factory(timeouts or SlowClientTimeouts()),  # type: ignore[arg-type] # called, and nothing else
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
        """Leave the signals to `paceline serve`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    def disable_keep_alive(self) -> None:
        """Let each response close its connection from now on, so that no request follows on one that ends soon."""
        self.config.encoded_headers.append(_CONNECTION_CLOSE)
        self.server_state.default_headers = [*self.server_state.default_headers, _CONNECTION_CLOSE]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._close_listeners(sockets or [])
        # A connection that is closed while a request is on its way looks reset to its client.
        if self.server_state.connections:
            await asyncio.sleep(CLOSE_GRACE_S)
        # uvicorn would cancel the requests that remain, and log each as an error. An aborted connection ends them like
        # a client that disconnects.
        abort_timer = asyncio.get_running_loop().call_later(FLUSH_TIMEOUT_S, self._abort_connections)
        try:
            await super().shutdown(sockets)
        finally:
            abort_timer.cancel()

    async def _close_listeners(self, listeners: list[socket.socket]) -> None:
        """Accept what is connected already, then close: the system resets the connections that are still queued."""
        accepted: list[socket.socket] = []
        for listener in listeners:
            listener.listen(0)  # at most one client gets in between the last accept and the close
            with suppress(BlockingIOError):
                while True:
                    accepted.append(listener.accept()[0])
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for connection in accepted:
            await loop.connect_accepted_socket(self._create_protocol, connection)

    def _create_protocol(self) -> asyncio.Protocol:
        protocol_class: Any = self.config.http_protocol_class  # called as uvicorn itself does
        protocol: asyncio.Protocol = protocol_class(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    def _abort_connections(self) -> None:
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
