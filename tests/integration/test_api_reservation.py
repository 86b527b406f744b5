"""A route that does work holds its reservation until its caller has the response, or left, and never longer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from unittest import mock

import pytest
from starlette.types import ASGIApp

from paceline.api.load_shedding import LoadShedder, Usage
from paceline.app import Service, create_app
from paceline.telemetry.metrics import Metrics
from support.in_memory_upstream import InMemoryUpstream, in_memory_service
from support.virtual_clock import virtual_time

ITEM = {"upstream": "api", "path": "/x"}
BATCH = {"requests": [ITEM] * 3}
CONFIG = {"compare": {"target": {"upstream": "api", "path": "/x"}}}
WORK: dict[str, tuple[str, str, Any, str]] = {
    "batch": ("POST", "/v1/batch", BATCH, "application/json"),
    "ndjson": ("POST", "/v1/batch", BATCH, "application/x-ndjson"),
    "events": ("POST", "/v1/batch", BATCH, "text/event-stream"),
    "fetch": ("POST", "/v1/fetch", ITEM, "application/json"),
    "plan": ("POST", "/v1/plan", BATCH, "application/json"),
    "compare": ("POST", "/v1/compare", {"request": ITEM, "n": 3, "strategies": ["adaptive"]}, "application/json"),
    "classic": ("GET", "/async/3", None, "application/json"),
}
CALLING = [name for name in WORK if name != "plan"]
STREAMS = ["ndjson", "events"]
Message = MutableMapping[str, Any]


class Caller:
    """One request, straight into the app: what it sends, when it leaves, and how it takes the response."""

    def __init__(self, name: str, *, body: bytes | None = None) -> None:
        self.method, self.path, value, self.accept = WORK[name]
        given = b"" if value is None else json.dumps(value).encode()
        self.body = given if body is None else body
        self.more_body = False
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self.breaks = False
        self._is_body_read = False

    async def receive(self) -> Message:
        if not self._is_body_read:
            self._is_body_read = not self.more_body
            chunk, self.body = self.body, b""
            if chunk or self._is_body_read:
                return {"type": "http.request", "body": chunk, "more_body": self.more_body}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.breaks:
            raise OSError("the connection is gone")
        self.sent.append(message)
        if message["type"] == "http.response.body":
            await self.reads.wait()

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    def scope(self) -> dict[str, Any]:
        headers = {"host": "localhost", "content-type": "application/json", "accept": self.accept}
        return {
            "type": "http",
            "http_version": "1.1",
            "method": self.method,
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": b"",
            "scheme": "http",
            "server": ("localhost", 80),
            "client": ("localhost", 1),
            "headers": [(name.encode(), text.encode()) for name, text in headers.items()],
        }


class App:
    """The API of a service in memory, and what it holds."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.load_shedder = LoadShedder()
        self.load_shedder.start_accepting()
        self.metrics = Metrics()
        self.asgi: ASGIApp = create_app(service, self.load_shedder, self.metrics, loopback=True)

    @property
    def usage(self) -> Usage:
        return self.load_shedder.usage

    @property
    def is_empty(self) -> bool:
        return self.usage == Usage() and not self.load_shedder.response_memory_listeners

    async def call(self, caller: Caller) -> None:
        await self.asgi(caller.scope(), caller.receive, caller.send)

    @asynccontextmanager
    async def calling(self, caller: Caller) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.call(caller))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@contextmanager
def app(upstream: InMemoryUpstream) -> Iterator[App]:
    with in_memory_service(upstream, config=CONFIG) as service:
        yield App(service)


@pytest.mark.parametrize("name", WORK)
@virtual_time
async def test_it_is_held_until_the_last_byte_is_handed_over(name: str):
    with app(InMemoryUpstream()) as it:
        caller = Caller(name)
        caller.reads.clear()
        async with it.calling(caller) as task:
            await asyncio.sleep(30)
            assert caller.status == 200
            assert it.usage.items == (1 if name == "fetch" else 3)
            caller.reads.set()
            await task
        assert it.is_empty


@pytest.mark.parametrize("name", WORK)
@virtual_time
async def test_it_is_released_when_the_response_cannot_be_sent(name: str):
    with app(InMemoryUpstream()) as it:
        caller = Caller(name)
        caller.breaks = True
        with pytest.raises(OSError, match="gone"):
            await it.call(caller)
        assert it.is_empty


@pytest.mark.parametrize("name", CALLING)
@virtual_time
async def test_it_is_released_when_the_caller_leaves(name: str):
    upstream = InMemoryUpstream(after_s=60)
    with app(upstream) as it:
        caller = Caller(name)
        async with it.calling(caller) as task:
            await asyncio.sleep(5)
            assert it.usage.items == (1 if name == "fetch" else 3)
            caller.left.set()
            await task
        assert [message["type"] for message in caller.sent] == (["http.response.start"] if name in STREAMS else [])
        assert upstream.in_flight == 0
        assert it.is_empty


@pytest.mark.parametrize("name", CALLING)
@virtual_time
async def test_it_is_released_when_the_request_is_cancelled(name: str):
    upstream = InMemoryUpstream(after_s=60)
    with app(upstream) as it:
        async with it.calling(Caller(name)) as task:
            await asyncio.sleep(5)
            assert it.usage.items > 0
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert upstream.in_flight == 0
        assert it.is_empty


@pytest.mark.parametrize("name", WORK)
@virtual_time
async def test_it_is_released_when_the_request_is_cancelled_while_its_response_is_sent(name: str):
    with app(InMemoryUpstream()) as it:
        caller = Caller(name)
        caller.reads.clear()
        async with it.calling(caller) as task:
            await asyncio.sleep(30)
            assert it.usage.items > 0
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert it.is_empty


@pytest.mark.parametrize("name", ["batch", "fetch", "plan", "compare"])
@virtual_time
async def test_a_body_on_its_way_is_held_and_released_when_the_caller_leaves(name: str):
    with app(InMemoryUpstream()) as it:
        caller = Caller(name, body=b"{" + b" " * 99)
        caller.more_body = True
        async with it.calling(caller) as task:
            await asyncio.sleep(5)
            assert it.usage.body_bytes == 100
            caller.left.set()
            await task
        assert caller.sent == []
        assert it.is_empty


@pytest.mark.parametrize("name", ["batch", "ndjson", "fetch", "plan", "compare"])
@virtual_time
async def test_a_refusal_holds_nothing(name: str):
    with app(InMemoryUpstream()) as it:
        caller = Caller(name, body=b'{"unknown": 1}')
        caller.reads.clear()
        async with it.calling(caller) as task:
            await asyncio.sleep(5)
            assert caller.status == 422
            assert it.is_empty  # while the problem is still being sent
            caller.reads.set()
            await task


@pytest.mark.parametrize("name", ["batch", "fetch", "compare", "classic"])
@virtual_time
async def test_it_is_released_after_a_bug_which_counts_as_a_500(name: str):
    with app(InMemoryUpstream()) as it, mock.patch.object(it.service.runner, "run", side_effect=RuntimeError("a bug")):
        caller = Caller(name)
        with pytest.raises(RuntimeError):
            await it.call(caller)
        assert caller.status == 500
        assert it.is_empty
        series = [line for line in it.metrics.render("")[0].decode().splitlines() if "_http_request" in line]
        assert any('status_class="5xx"} 1.0' in line for line in series)


@virtual_time
async def test_what_needs_no_body_is_refused_before_the_body_is_there():
    with app(InMemoryUpstream()) as it:
        caller = Caller("batch", body=b"{")
        caller.more_body = True
        caller.accept = "text/html"
        await it.call(caller)
        assert caller.status == 406
        it.load_shedder.stop_accepting()
        for name in ("batch", "fetch", "plan", "compare"):
            caller = Caller(name, body=b"{")
            caller.more_body = True
            await it.call(caller)
            assert caller.status == 503
        assert it.is_empty
