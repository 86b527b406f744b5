"""What routes depend on, as annotated types: `async def list_upstreams(registry: RegistryDep, tenant: TenantDep)`.

Every dependency is a coroutine, as FastAPI runs a plain function in a thread, and reads `app.state` instead of
depending on another: FastAPI walks through the dependencies of a dependency each time, also where it has its value.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Protocol

from fastapi import Depends, Path
from starlette.requests import Request

from paceline.api.errors import NotFound
from paceline.api.load_shedding import LoadShedder, Reservation
from paceline.api.problem_code import ProblemCode
from paceline.batch.runner import BatchRunner
from paceline.config import Config
from paceline.model import Tenant
from paceline.upstream.registry import UpstreamRegistry
from paceline.upstream.upstream import Upstream

TENANT_SCOPE_KEY = "paceline.tenant"
"""Key in the ASGI scope under which the authentication leaves the caller."""

RenderMetrics = Callable[[str], tuple[bytes, str]]
"""The metrics and their content type, for an Accept header."""

_ANONYMOUS = Tenant()


class ServiceProtocol(Protocol):
    """The service without its HTTP API."""

    @property
    def config(self) -> Config:
        """The configuration in force; a reload replaces it, so read it anew for each request."""

    @property
    def registry(self) -> UpstreamRegistry: ...
    @property
    def runner(self) -> BatchRunner: ...


def service_of(request: Request) -> ServiceProtocol:
    service: ServiceProtocol = request.app.state.service
    return service


def tenant_of(request: Request) -> Tenant:
    """The caller; all callers are the same tenant where no keys are configured."""
    tenant: Tenant = request.scope.get(TENANT_SCOPE_KEY, _ANONYMOUS)
    return tenant


def load_shedder_of(request: Request) -> LoadShedder:
    load_shedder: LoadShedder = request.app.state.load_shedder
    return load_shedder


async def get_tenant(request: Request) -> Tenant:
    return tenant_of(request)


async def get_service(request: Request) -> ServiceProtocol:
    return service_of(request)


async def get_registry(request: Request) -> UpstreamRegistry:
    return service_of(request).registry


async def get_load_shedder(request: Request) -> LoadShedder:
    return load_shedder_of(request)


async def get_metrics_renderer(request: Request) -> RenderMetrics:
    render_metrics: RenderMetrics = request.app.state.render_metrics
    return render_metrics


async def reserve(request: Request) -> AsyncIterator[Reservation]:
    """Hold a reservation from before the body is read until the last byte of the response is handed over.

    Raises:
        OverShare, Unavailable: the service has no room for the request.
    """
    with load_shedder_of(request).reserve(tenant_of(request), service_of(request).config.server) as reservation:
        yield reservation


async def get_upstream(
    name: Annotated[
        str,
        Path(
            description="Name of the upstream in the configuration.", openapi_examples={"github": {"value": "github"}}
        ),
    ],
    request: Request,
) -> Upstream:
    """The declared upstream that the path names, if the caller may see it.

    Raises:
        NotFound: it may not, or there is none of this name.
    """
    visible = visible_upstreams(service_of(request).registry, tenant_of(request))
    for upstream in visible:
        if upstream.name == name:
            return upstream
    known = ", ".join(upstream.name for upstream in visible) or "none"
    raise NotFound(
        f"no upstream of this name is declared for you; there is: {known}", code=ProblemCode.UNKNOWN_UPSTREAM
    )


def visible_upstreams(registry: UpstreamRegistry, tenant: Tenant) -> list[Upstream]:
    """The declared upstreams that a caller may see."""
    return [upstream for upstream in registry if tenant.upstreams is None or upstream.name in tenant.upstreams]


TenantDep = Annotated[Tenant, Depends(get_tenant)]
ServiceDep = Annotated[ServiceProtocol, Depends(get_service)]
RegistryDep = Annotated[UpstreamRegistry, Depends(get_registry)]
LoadShedderDep = Annotated[LoadShedder, Depends(get_load_shedder)]
RenderMetricsDep = Annotated[RenderMetrics, Depends(get_metrics_renderer)]
UpstreamDep = Annotated[Upstream, Depends(get_upstream)]
ReservationDep = Annotated[Reservation, Depends(reserve, scope="request")]
"""`scope="request"`: FastAPI leaves it when the response was sent, streams included, or its sending failed."""
