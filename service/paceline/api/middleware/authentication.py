"""The API key of a request, compared in constant time. It is read here and passed on nowhere."""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest

from starlette.types import ASGIApp, Receive, Scope, Send

from paceline.api.dependencies import TENANT_SCOPE_KEY
from paceline.api.errors import Unauthorized, problem_response
from paceline.config.server import ApiKeyConfig
from paceline.model import Tenant

PUBLIC_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"})
"""Paths that need no key: a browser cannot send one with a page, and the description says nothing of this service."""
_PUBLIC_FOLDER = "/docs/"

GetApiKeys = Callable[[], tuple[ApiKeyConfig, ...]]


class ApiKeyMiddleware:
    """Accepts requests with a known key, and puts its tenant into the scope; without configured keys, all requests."""

    def __init__(self, app: ASGIApp, get_api_keys: GetApiKeys) -> None:
        self._app = app
        self._get_api_keys = get_api_keys
        self._cached_keys: tuple[ApiKeyConfig, ...] = ()
        self._key_tenants: list[tuple[bytes, Tenant]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keys = self._get_api_keys()
        if scope["type"] == "http" and keys and not is_public(scope["path"]):
            if keys is not self._cached_keys:
                self._cached_keys = keys
                self._key_tenants = [(key.key.get_secret_value().encode(), _to_tenant(key)) for key in keys]
            tenant = self._find_tenant(_read_presented_key(scope))
            if tenant is None:
                error = Unauthorized(
                    "an API key is needed; send it as Authorization: Bearer, or as Paceline-Key",
                    headers={"www-authenticate": 'Bearer realm="paceline"'},
                )
                await problem_response(scope, error)(scope, receive, send)
                return
            scope[TENANT_SCOPE_KEY] = tenant
        await self._app(scope, receive, send)

    def _find_tenant(self, presented_key: bytes) -> Tenant | None:
        found = None
        for key, tenant in self._key_tenants:  # to the end, so that the time taken reveals nothing
            if compare_digest(key, presented_key):
                found = tenant
        return found


def is_public(path: str) -> bool:
    """Whether a path needs no key."""
    return path in PUBLIC_PATHS or path.startswith(_PUBLIC_FOLDER)


def _to_tenant(key: ApiKeyConfig) -> Tenant:
    return Tenant(key.name, key.weight, key.max_priority, None if key.upstreams is None else frozenset(key.upstreams))


def _read_presented_key(scope: Scope) -> bytes:
    bearer = b""
    for name, value in scope["headers"]:
        if name == b"paceline-key":
            return bytes(value)
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].strip()
    return bearer
