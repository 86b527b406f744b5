"""The only composition root: what is built here is passed on as constructor arguments and looked up nowhere."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from paceline.admission.allowance import Allowance
from paceline.batch.runner import Runner
from paceline.config import Config
from paceline.events import Listener, tell
from paceline.transport.egress import Guard
from paceline.upstream.registry import Registry
from paceline.upstream.state import UpstreamLevel, level_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from paceline.api.intake import Intake
    from paceline.telemetry.metrics import Metrics

_OWN_FILES = 100
"""Descriptors kept back for callers' connections, logs and the listeners themselves."""


class Service:
    """Paceline without its HTTP API: what `serve`, `run` and `compare` all stand on.

    Must be made and closed inside a running event loop's thread; `listeners` are addresses it must never dial.
    """

    def __init__(
        self, config: Config, listeners: Sequence[Listener] = (), own_addresses: Sequence[tuple[str, int]] = ()
    ) -> None:
        self.config = config
        self._own_addresses = own_addresses
        self._tell = tell(*listeners)
        self.registry = Registry(config, self._guard(config), Allowance(_socket_limit()), self._tell)
        self.runner = Runner(self.registry, self._tell)

    def warm(self) -> None:
        """Load the engine of undeclared hosts too: the first call need not."""
        import_module(f"paceline.transport.{self.config.defaults.engine}")

    def apply(self, config: Config) -> None:
        """Take a new configuration without losing what is queued, in flight or counted."""
        self.registry.apply(config, self._guard(config))
        self.config = config

    async def close(self) -> None:
        """Close every connection; batches on their way must have ended."""
        await self.registry.close()

    def states(self) -> Iterator[UpstreamLevel]:
        """The live state of every upstream, undeclared hosts included."""
        now = time.perf_counter()
        for upstream in (*self.registry, *self.registry.undeclared):
            yield level_of(upstream, now)

    def _guard(self, config: Config) -> Guard:
        egress = config.egress
        return Guard(
            mode=egress.mode, allow=egress.allow, deny=egress.deny, ports=egress.ports, listeners=self._own_addresses
        )


def create_app(service: Service, intake: Intake, metrics: Metrics, *, loopback: bool) -> ASGIApp:
    """The HTTP API of a service, as one ASGI app; `loopback`: it is bound where only this machine reaches it.

    Batches are taken while `intake` is open.
    """
    # Imported here, as `run` and `compare` stand on a Service without any HTTP API and should start at once.
    from paceline.api.application import application
    from paceline.api.core import Core
    from paceline.api.hosts import HostCheck
    from paceline.api.keys import KeyCheck
    from paceline.telemetry.http import HttpMetrics

    metrics.watch(service.states)
    app: ASGIApp = application(Core(service, intake, metrics.render))
    app = KeyCheck(app, lambda: service.config.server.api_keys)
    app = HostCheck(app, loopback=loopback, names=lambda: service.config.server.hosts)
    return HttpMetrics(app, metrics.serve)


def _socket_limit() -> int:
    """Sockets to upstreams the process may hold at once: three in four of the file descriptors it may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return 65_536
    return max(1, (files - _OWN_FILES) * 3 // 4)
