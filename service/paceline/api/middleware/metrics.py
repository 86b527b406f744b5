"""Time every request to the service itself, as one pure ASGI layer around the app.

| label | closed set |
|---|---|
| `route` | the template that matched (`/v1/upstreams/{name}`), else `unmatched` |
| `method` | the usual nine, else `other` |
| `status_class` | `1xx` to `5xx`, `other`; `disconnected` where the caller left before an answer began |

Bodies pass through as they are, unread and uncounted.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paceline.telemetry.counters import status_class

ObserveRequest = Callable[[str, str, str, float], None]
"""Takes route, method, status class and seconds."""

KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class HttpMetricsMiddleware:
    """Reports each request once, when its response has ended. Outermost: whatever else responds is inside."""

    def __init__(self, app: ASGIApp, observe: ObserveRequest) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_at = time.perf_counter()
        status_label: str | None = None
        disconnected = False

        async def send_and_record_status(message: Message) -> None:
            nonlocal status_label
            if message["type"] == "http.response.start":
                status_label = status_class(message["status"])
            await send(message)

        async def receive_and_record_disconnect() -> Message:
            nonlocal disconnected
            message = await receive()
            disconnected = disconnected or message["type"] == "http.disconnect"
            return message

        try:
            await self._app(scope, receive_and_record_disconnect, send_and_record_status)
        except Exception:
            if status_label is None and not disconnected:
                status_label = "5xx"  # what `ServerErrorMiddleware`, outside, responds with
            raise
        finally:
            # No start and no error: the caller disconnected, or the server cancelled the request.
            duration_s = time.perf_counter() - began_at
            self._observe(route_label(scope), method_label(scope), status_label or "disconnected", duration_s)


def route_label(scope: Scope) -> str:
    """The template of the route that matched; the router leaves it in the scope."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "unmatched"


def method_label(scope: Scope) -> str:
    method = scope["method"]
    return method if method in KNOWN_METHODS else "other"
