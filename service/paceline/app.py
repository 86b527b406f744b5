"""The only composition root: what is built here is passed on as constructor arguments and looked up nowhere."""

from __future__ import annotations

import resource
from collections.abc import Sequence

from paceline.admission.allowance import Allowance
from paceline.batch.runner import Runner
from paceline.config import Config
from paceline.events import Listener, tell
from paceline.transport.egress import Guard
from paceline.upstream.registry import Registry

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

    def apply(self, config: Config) -> None:
        """Take a new configuration without losing what is queued, in flight or counted."""
        self.registry.apply(config, self._guard(config))
        self.config = config

    async def close(self) -> None:
        """Close every connection; batches on their way must have ended."""
        await self.registry.close()

    def _guard(self, config: Config) -> Guard:
        egress = config.egress
        return Guard(
            mode=egress.mode, allow=egress.allow, deny=egress.deny, ports=egress.ports, listeners=self._own_addresses
        )


def _socket_limit() -> int:
    """Sockets to upstreams the process may hold at once: three in four of the file descriptors it may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return 65_536
    return max(1, (files - _OWN_FILES) * 3 // 4)
