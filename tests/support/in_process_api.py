"""The HTTP API on a real socket, on the test's own loop: `async with start_api({"upstreams": ...}) as api:`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from paceline.api.load_shedding import LoadShedder
from paceline.api.server.http_protocol import SlowClientTimeouts
from paceline.api.server.uvicorn_server import UvicornServer
from paceline.app import Service, create_app
from paceline.config import Config
from paceline.telemetry.metrics import Metrics

JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class ApiResponse:
    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class InProcessApi:
    """The API, ready; `port` is where it listens."""

    port: int
    http: aiohttp.ClientSession
    service: Service
    load_shedder: LoadShedder

    async def request(self, method: str, path: str, body: Any = None, **headers: str) -> ApiResponse:
        """Send a JSON body (bytes as they are); header names are written with underscores."""
        headers_by_name = {name.replace("_", "-"): value for name, value in headers.items()}
        options: dict[str, Any] = {"headers": {**JSON, **headers_by_name}}
        if body is not None:
            options["data" if isinstance(body, bytes) else "json"] = body
        async with self.http.request(method, path, **options) as response:
            is_json = response.content_type in ("application/json", "application/problem+json")
            content = await response.json(content_type=None) if is_json else await response.text()
            return ApiResponse(response.status, response.headers, content)

    async def send_batch(self, *items: dict[str, Any], **body: Any) -> Any:
        """Send a batch that must be taken; its answer."""
        answer = await self.request("POST", "/v1/batch", {"requests": list(items), **body})
        assert answer.status == 200, answer.body
        return answer.body


@asynccontextmanager
async def start_api(
    config: dict[str, Any], *, loopback: bool = True, slow_client_timeouts: SlowClientTimeouts | None = None
) -> AsyncIterator[InProcessApi]:
    """Serve a configuration; at the end nothing may be left in the service."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    metrics, load_shedder = Metrics(), LoadShedder()
    service = Service(Config.model_validate(config), [metrics.on_event], [("127.0.0.1", port)])
    started = asyncio.Event()
    server = UvicornServer(
        create_app(service, load_shedder, metrics, loopback=loopback), started.set, slow_client_timeouts
    )
    serve_task = asyncio.create_task(server.serve([listener]))
    await started.wait()
    load_shedder.start_accepting()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", cookie_jar=aiohttp.DummyCookieJar()) as http:
            yield InProcessApi(port, http, service, load_shedder)
        assert await load_shedder.wait_idle(10)
    finally:
        server.should_exit = True
        await serve_task
        await service.close()


def one_upstream_config(url: str, **policy: Any) -> dict[str, Any]:
    """A configuration of one upstream, `api`, on loopback."""
    return {"upstreams": {"api": {"base_url": url, "allow_private": True, **policy}}}
