"""An answer that is made, and handed over, while its request has a place in the service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paceline.api.core import Core, tenant_of
from paceline.api.intake import Place

Answer = Callable[[Request, Place], Awaitable[Response]]


def held(core: Core, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """`answer` as an endpoint: the place is held from before the body is read until the last byte is handed over."""

    async def endpoint(request: Request) -> Response:
        return _Held(core, request, answer)

    return endpoint


class _Held(Response):
    """A response whose content is still to be made; a subclass because that is what the framework takes."""

    def __init__(self, core: Core, request: Request, answer: Answer) -> None:
        self.background = None
        self._core = core
        self._request = request
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._core.intake.place(tenant_of(scope), self._core.config.server) as place:
            response = await self._answer(self._request, place)
            await response(scope, receive, send)
