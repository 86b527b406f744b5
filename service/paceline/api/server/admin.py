"""Health, readiness and metrics on a separate port and thread, where load cannot starve them."""

from __future__ import annotations

import asyncio
import socket
import threading

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from paceline.api.content_negotiation import JSON
from paceline.api.dependencies import RenderMetrics
from paceline.api.errors import MethodNotAllowed, NotFound, Unavailable, problem_response
from paceline.api.load_shedding import LoadShedder
from paceline.api.routes.health import ALIVE, check_readiness
from paceline.api.schemas.responses import HealthResponse
from paceline.api.server.uvicorn_server import UvicornServer

_METRICS_TIMEOUT_S = 1.0


class AdminApp:
    """Responds to the three paths, on a thread that is not the service's."""

    def __init__(
        self, load_shedder: LoadShedder, render_metrics: RenderMetrics, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._load_shedder = load_shedder
        self._render_metrics = render_metrics
        self._loop = loop
        self._last_metrics: tuple[bytes, str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await (await self._handle(Request(scope)))(scope, receive, send)

    async def _handle(self, request: Request) -> Response:
        path = request.url.path
        if path not in ("/healthz", "/readyz", "/metrics"):
            detail = "this port has /healthz, /readyz and /metrics; the API is on server.port"
            return problem_response(request.scope, NotFound(detail))
        if request.method not in ("GET", "HEAD"):
            detail = "this path takes GET and HEAD only"
            return problem_response(request.scope, MethodNotAllowed(detail, headers={"allow": "GET, HEAD"}))
        if path == "/healthz":
            return _health_response(ALIVE, 200)
        if path == "/readyz":
            return _health_response(*check_readiness(self._load_shedder))
        return await self._respond_with_metrics(request)

    async def _respond_with_metrics(self, request: Request) -> Response:
        """The present metrics, or the last ones while the service's loop is too busy to render them."""
        future = asyncio.run_coroutine_threadsafe(self._render_on_loop(request.headers.get("accept", "")), self._loop)
        try:
            async with asyncio.timeout(_METRICS_TIMEOUT_S):
                self._last_metrics = await asyncio.wrap_future(future)
        except TimeoutError:
            if self._last_metrics is None:
                return problem_response(request.scope, Unavailable("the service is too busy to give its metrics"))
        body, content_type = self._last_metrics
        return Response(body, headers={"content-type": content_type})

    async def _render_on_loop(self, accept: str) -> tuple[bytes, str]:
        # On the service's own loop: what the gauges read may be looked at by no other thread.
        return self._render_metrics(accept)


def _health_response(state: HealthResponse, status: int) -> Response:
    return Response(msgspec.json.encode(state), status, media_type=JSON)


class AdminServer:
    """Serves an app on a separate thread while its context is open."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        self._listener = listener
        self._server = UvicornServer(app, lambda: None)
        self._thread = threading.Thread(target=self._run, name="admin", daemon=True)

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listener]))

    async def __aenter__(self) -> None:
        self._thread.start()

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await asyncio.to_thread(self._thread.join)
