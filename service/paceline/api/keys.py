"""Who asks: the API key of a request, compared in constant time. It is read here and goes nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest

from starlette.types import ASGIApp, Receive, Scope, Send

from paceline.api.core import TENANT
from paceline.api.errors import Unauthorized, problem_response
from paceline.config.server import ApiKey
from paceline.model import Tenant

OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that need no key."""

KeysInForce = Callable[[], tuple[ApiKey, ...]]


class KeyCheck:
    """Lets through who has a key, and notes whose it is; everybody where none are configured."""

    def __init__(self, app: ASGIApp, keys: KeysInForce) -> None:
        self._app = app
        self._keys = keys
        self._seen: tuple[ApiKey, ...] = ()
        self._tenants: list[tuple[bytes, Tenant]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keys = self._keys()
        if scope["type"] == "http" and keys and scope["path"] not in OPEN:
            if keys is not self._seen:
                self._seen = keys
                self._tenants = [(key.key.get_secret_value().encode(), _tenant(key)) for key in keys]
            tenant = self._holder(_given(scope))
            if tenant is None:
                error = Unauthorized(
                    "an API key is needed; send it as Authorization: Bearer, or as Paceline-Key",
                    headers={"www-authenticate": 'Bearer realm="paceline"'},
                )
                await problem_response(scope, error)(scope, receive, send)
                return
            scope[TENANT] = tenant
        await self._app(scope, receive, send)

    def _holder(self, given: bytes) -> Tenant | None:
        found = None
        for key, tenant in self._tenants:  # to the end, so that the time taken tells nothing
            if compare_digest(key, given):
                found = tenant
        return found


def _tenant(key: ApiKey) -> Tenant:
    return Tenant(key.name, key.weight, key.max_priority, None if key.upstreams is None else frozenset(key.upstreams))


def _given(scope: Scope) -> bytes:
    bearer = b""
    for name, value in scope["headers"]:
        if name == b"paceline-key":
            return bytes(value)
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].strip()
    return bearer
