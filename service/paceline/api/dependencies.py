"""What the API stands on, as it sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from starlette.types import Scope

from paceline.api.load_shedding import LoadShedder
from paceline.batch.runner import BatchRunner
from paceline.config import Config
from paceline.model import Tenant
from paceline.upstream.registry import UpstreamRegistry

TENANT_SCOPE_KEY = "paceline.tenant"
"""Where the key check leaves who asks, in the ASGI scope."""

RenderMetrics = Callable[[str], tuple[bytes, str]]
"""The metrics and their content type, for an Accept header."""

_ANONYMOUS = Tenant()


class ServiceProtocol(Protocol):
    """The service without its HTTP API."""

    @property
    def config(self) -> Config: ...
    @property
    def registry(self) -> UpstreamRegistry: ...
    @property
    def runner(self) -> BatchRunner: ...


class ApiContext:
    """The service, what it has taken on, and its metrics."""

    def __init__(self, service: ServiceProtocol, load_shedder: LoadShedder, render_metrics: RenderMetrics) -> None:
        self._service = service
        self.load_shedder = load_shedder
        self.render_metrics = render_metrics
        self.registry = service.registry
        self.runner = service.runner

    @property
    def config(self) -> Config:
        """The configuration in force; a reload changes it, so it is asked for anew each time."""
        return self._service.config


def get_tenant(scope: Scope) -> Tenant:
    """Who asks; everybody is the same caller where no keys are configured."""
    tenant = scope.get(TENANT_SCOPE_KEY, _ANONYMOUS)
    assert isinstance(tenant, Tenant)
    return tenant
