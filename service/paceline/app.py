"""The only composition root: what is built here is passed on as constructor arguments and looked up nowhere."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from paceline.admission.permit_pool import PermitPool
from paceline.batch.runner import BatchRunner
from paceline.config import Config
from paceline.events import EventListener, combine_listeners
from paceline.transport.egress import EgressGuard
from paceline.upstream.registry import UpstreamRegistry
from paceline.upstream.snapshot import UpstreamSnapshot, snapshot_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from paceline.api.load_shedding import LoadShedder
    from paceline.telemetry.metrics import Metrics

_RESERVED_FILE_DESCRIPTORS = 100
"""Descriptors kept back for callers' connections, logs and the listeners themselves."""


class Service:
    """Paceline without its HTTP API: what `serve`, `run` and `compare` all stand on.

    Must be made and closed inside a running event loop's thread; `listeners` are addresses it must never dial.
    """

    def __init__(
        self, config: Config, listeners: Sequence[EventListener] = (), listen_addresses: Sequence[tuple[str, int]] = ()
    ) -> None:
        self.config = config
        self._listen_addresses = listen_addresses
        self._emit = combine_listeners(*listeners)
        self.registry = UpstreamRegistry(
            config, self._create_egress_guard(config), PermitPool(_max_upstream_sockets()), self._emit
        )
        self.runner = BatchRunner(self.registry, self._emit)

    def preload_default_engine(self) -> None:
        """Load the engine of undeclared hosts too: the first call need not."""
        import_module(f"paceline.transport.{self.config.defaults.engine}")

    def apply(self, config: Config) -> None:
        """Take a new configuration without losing what is queued, in flight or counted."""
        self.registry.apply(config, self._create_egress_guard(config))
        self.config = config

    async def close(self) -> None:
        """Close every connection; batches on their way must have ended."""
        await self.registry.close()

    def upstream_snapshots(self) -> Iterator[UpstreamSnapshot]:
        """The live state of every upstream, undeclared hosts included."""
        now = time.perf_counter()
        for upstream in (*self.registry, *self.registry.undeclared):
            yield snapshot_of(upstream, now)

    def _create_egress_guard(self, config: Config) -> EgressGuard:
        egress = config.egress
        return EgressGuard(
            mode=egress.mode, allow=egress.allow, deny=egress.deny, ports=egress.ports, listeners=self._listen_addresses
        )


def create_app(service: Service, load_shedder: LoadShedder, metrics: Metrics, *, loopback: bool) -> ASGIApp:
    """The HTTP API of a service, as one ASGI app; `loopback` says that only this machine reaches its listener.

    It accepts batches while `load_shedder` does.
    """
    # Imported here, as `run` and `compare` use a Service without an HTTP API and should start at once.
    from paceline.api import app

    metrics.set_upstreams_source(service.upstream_snapshots)
    return app.create_app(service, load_shedder, metrics, loopback=loopback)


def _max_upstream_sockets() -> int:
    """Sockets to upstreams the process may hold at once: three in four of the file descriptors it may open."""
    max_open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if max_open_files == resource.RLIM_INFINITY:
        return 65_536
    return max(1, (max_open_files - _RESERVED_FILE_DESCRIPTORS) * 3 // 4)
