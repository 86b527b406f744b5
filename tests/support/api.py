"""The HTTP API on a real socket, on the test's own loop: `async with start_api({"upstreams": ...}) as api:`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from paceline.api.connection import Patience
from paceline.api.intake import Intake
from paceline.api.server import Server
from paceline.app import Service, create_app
from paceline.config import Config
from paceline.telemetry.metrics import Metrics

JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Api:
    """The API, ready; `port` is where it listens."""

    port: int
    http: aiohttp.ClientSession
    service: Service
    intake: Intake

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a JSON body (bytes as they are); header names are written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        options: dict[str, Any] = {"headers": {**JSON, **named}}
        if body is not None:
            options["data" if isinstance(body, bytes) else "json"] = body
        async with self.http.request(method, path, **options) as answer:
            whole = answer.content_type in ("application/json", "application/problem+json")
            content = await answer.json(content_type=None) if whole else await answer.text()
            return Answer(answer.status, answer.headers, content)

    async def batch(self, *items: dict[str, Any], **body: Any) -> Any:
        """Send a batch that must be taken; its answer."""
        answer = await self.send("POST", "/v1/batch", {"requests": list(items), **body})
        assert answer.status == 200, answer.body
        return answer.body


@asynccontextmanager
async def start_api(
    config: dict[str, Any], *, loopback: bool = True, patience: Patience | None = None
) -> AsyncIterator[Api]:
    """Serve a configuration; at the end nothing may be left in the service."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    metrics, intake = Metrics(), Intake()
    service = Service(Config.model_validate(config), [metrics.listen], [("127.0.0.1", port)])
    started = asyncio.Event()
    server = Server(create_app(service, intake, metrics, loopback=loopback), started.set, patience)
    serving = asyncio.create_task(server.serve([listener]))
    await started.wait()
    intake.open()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", cookie_jar=aiohttp.DummyCookieJar()) as http:
            yield Api(port, http, service, intake)
        assert await intake.emptied(10)
    finally:
        server.should_exit = True
        await serving
        await service.close()


def upstreams(url: str, **policy: Any) -> dict[str, Any]:
    """A configuration of one upstream, `api`, on loopback."""
    return {"upstreams": {"api": {"base_url": url, "allow_private": True, **policy}}}
