"""An answer that is made, and handed over, while its request has a place in the service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paceline.api.dependencies import ApiContext, get_tenant
from paceline.api.load_shedding import Reservation

Handler = Callable[[Request, Reservation], Awaitable[Response]]


def with_reservation(context: ApiContext, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """`answer` as an endpoint: the place is held from before the body is read until the last byte is handed over."""

    async def endpoint(request: Request) -> Response:
        return _ReservedResponse(context, request, handler)

    return endpoint


class _ReservedResponse(Response):
    """A response whose content is still to be made; a subclass because that is what the framework takes."""

    def __init__(self, context: ApiContext, request: Request, handler: Handler) -> None:
        self.background = None
        self._context = context
        self._request = request
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._context.load_shedder.reserve(get_tenant(scope), self._context.config.server) as reservation:
            response = await self._handler(self._request, reservation)
            await response(scope, receive, send)
