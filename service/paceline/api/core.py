"""What the API stands on, as it sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from starlette.types import Scope

from paceline.api.intake import Intake
from paceline.batch.runner import Runner
from paceline.config import Config
from paceline.model import Tenant
from paceline.upstream.registry import Registry

TENANT = "paceline.tenant"
"""Where the key check leaves who asks, in the ASGI scope."""

Render = Callable[[str], tuple[bytes, str]]
"""The metrics and their content type, for an Accept header."""

_ANYBODY = Tenant()


class Served(Protocol):
    """The service without its HTTP API."""

    @property
    def config(self) -> Config: ...
    @property
    def registry(self) -> Registry: ...
    @property
    def runner(self) -> Runner: ...


class Core:
    """The service, what it has taken on, and its metrics."""

    def __init__(self, service: Served, intake: Intake, render: Render) -> None:
        self._service = service
        self.intake = intake
        self.render = render
        self.registry = service.registry
        self.runner = service.runner

    @property
    def config(self) -> Config:
        """The configuration in force; a reload changes it, so it is asked for anew each time."""
        return self._service.config


def tenant_of(scope: Scope) -> Tenant:
    """Who asks; everybody is the same caller where no keys are configured."""
    tenant = scope.get(TENANT, _ANYBODY)
    assert isinstance(tenant, Tenant)
    return tenant
