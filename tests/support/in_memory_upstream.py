"""A whole service over an upstream in memory, so that batches run in virtual time.

upstream = InMemoryUpstream(after_s=0.1)
with in_memory_service(upstream, rate=[{"limit": 5, "per": "1s"}]) as service:
    outcomes = await run_batch(service, Batch(items(3)))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from paceline.app import Service
from paceline.config import Config
from paceline.errors import AttemptError
from paceline.events import Event
from paceline.model import Batch, Item, Outcome, Request, Response

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class SentRequest:
    """One attempt as it reached the engine."""

    request: Request
    sent_at: float

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.request.headers if key == name]


class InMemoryUpstream:
    """A `Transport` that answers by script, then as `usual` (200 after `after_s`); it counts what is in flight."""

    def __init__(self, *script: Handler, after_s: float = 0.1, default: Handler | None = None) -> None:
        self.sent: list[SentRequest] = []
        self.in_flight = 0
        self.in_flight_max = 0
        self._script = list(script)
        self._default = default or respond_with(after_s=after_s)
        self._by_path: dict[str, list[Handler]] = {}

    def script_path(self, path: str, *script: Handler) -> None:
        """Answer this path by script, the last one for ever."""
        self._by_path[path] = list(script)

    @property
    def sent_times(self) -> list[float]:
        return [sent.sent_at for sent in self.sent]

    async def send(self, request: Request) -> Response:
        self.sent.append(SentRequest(request, time.perf_counter()))
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            return await self._next_handler(request)(request)
        finally:
            self.in_flight -= 1

    async def close(self) -> None:
        return

    def _next_handler(self, request: Request) -> Handler:
        path_script = self._by_path.get(request.url.target)
        if path_script is not None:
            return path_script.pop(0) if len(path_script) > 1 else path_script[0]
        return self._script.pop(0) if self._script else self._default


def respond_with(status: int = 200, *headers: tuple[str, str], body: bytes = b"", after_s: float = 0.1) -> Handler:
    """Written at once, answered after `after_s`."""

    async def act(request: Request) -> Response:
        request.exchange.mark_written(time.perf_counter())
        await asyncio.sleep(after_s)
        request.exchange.answered_at = time.perf_counter()
        return Response(status, tuple(headers), body)

    return act


def fail_with(kind: type[AttemptError], *, sent: bool, after_s: float = 0.1) -> Handler:
    """No answer, but this error."""

    async def act(request: Request) -> Response:
        if sent:
            request.exchange.mark_written(time.perf_counter())
        await asyncio.sleep(after_s)
        raise kind("scripted", sent=sent)

    return act


def never_respond() -> Handler:
    """Written, and never answered."""

    async def act(request: Request) -> Response:
        request.exchange.mark_written(time.perf_counter())
        await asyncio.Event().wait()
        raise AssertionError("it is never set")

    return act


@contextmanager
def in_memory_service(
    upstream: InMemoryUpstream,
    *,
    upstreams: Mapping[str, Mapping[str, Any]] | None = None,
    event_log: list[Event] | None = None,
    config: Mapping[str, Any] | None = None,
    **policy: Any,
) -> Iterator[Service]:
    """A service whose one upstream `api` (or all of `upstreams`) is in memory; `event_log` collects its events."""
    upstream_configs = upstreams or {"api": {"base_url": "https://api.example", **policy}}
    events: list[Event] = event_log if event_log is not None else []
    with mock.patch("paceline.upstream.registry.open_engine", return_value=upstream):
        yield Service(Config.model_validate({"upstreams": upstream_configs, **(config or {})}), [events.append])


def items(count: int = 1, **fields: Any) -> list[Item]:
    """`count` items to `/0`, `/1` and so on of the upstream `api`."""
    return [Item(upstream="api", path=f"/{index}", **fields) for index in range(count)]


async def run_batch(service: Service, batch: Batch) -> list[Outcome]:
    """The batch's outcomes in request order; each item must have exactly one."""
    outcomes: list[Outcome] = []
    await service.runner.run(batch, outcomes.append)
    outcomes.sort(key=lambda outcome: outcome.index)
    assert [outcome.index for outcome in outcomes] == list(range(len(batch.items)))
    return outcomes


async def run_one(service: Service, item: Item | None = None, **fields: Any) -> Outcome:
    """The outcome of a batch of one."""
    (outcome,) = await run_batch(service, Batch(items=[item or items()[0]], **fields))
    return outcome


def is_idle(service: Service) -> bool:
    """Whether no upstream has a permit taken or a waiter, and no socket is counted."""
    gates = [upstream.async_gate.gate for upstream in (*service.registry, *service.registry.undeclared)]
    return all(gate.in_flight == 0 and gate.queued == 0 for gate in gates)


def outcome_codes(outcomes: Sequence[Outcome]) -> list[str]:
    """Each outcome's error code, or `success`."""
    return [outcome.error.code if outcome.error else outcome.outcome.value for outcome in outcomes]
