"""Check the Host header, so that a web page cannot point its own name at this service and talk to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from paceline.api.errors import Misdirected, problem_response

_HOST_HEADER = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:]+)(?::[0-9]{1,5})?")

GetAllowedHosts = Callable[[], Collection[str]]


class TrustedHostMiddleware:
    """Accepts requests that name this service.

    On loopback only loopback's own names pass, on any port; beyond it only `names`, and all where there are none.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, get_allowed_hosts: GetAllowedHosts) -> None:
        self._app = app
        self._is_loopback = loopback
        self._get_allowed_hosts = get_allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_trusted(scope):
            error = Misdirected(
                "this service does not answer to the name in Host; use localhost"
                if self._is_loopback
                else "this service does not answer to the name in Host; use one of server.hosts"
            )
            await problem_response(scope, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_trusted(self, scope: Scope) -> bool:
        allowed_hosts = () if self._is_loopback else self._get_allowed_hosts()
        if not self._is_loopback and not allowed_hosts:
            return True
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        match = _HOST_HEADER.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None:
            return False
        host = match[1].strip("[]").removesuffix(".")
        if self._is_loopback:
            return host == "localhost" or _is_loopback(host)
        return host in {name.lower().strip("[]").removesuffix(".") for name in allowed_hosts}


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
