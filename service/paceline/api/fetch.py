"""`POST /v1/fetch`: one request in, one outcome out."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paceline.api.accept import JSON
from paceline.api.answers import Room, cut
from paceline.api.caller import unless_gone
from paceline.api.checks import fetch_of
from paceline.api.core import Core, tenant_of
from paceline.api.held import held
from paceline.api.intake import Place
from paceline.api.reading import read_fetch

_IN_ONE = 64 * 1024


def add_routes(app: FastAPI, core: Core) -> None:
    async def fetch(request: Request, place: Place) -> Response:
        limits = core.config.server
        body = await read_fetch(request, place, limits)
        batch = fetch_of(body, tenant_of(request.scope), limits)
        place.hold_items(1)
        room = Room(place, limits.max_batch_response)
        lines: list[bytes] = []
        run = core.runner.run(batch, lambda outcome: lines.append(room.line(outcome)))
        await unless_gone(request.receive, run)
        return _InPieces(lines[0], media_type=JSON)

    app.post("/v1/fetch", response_model=None, name="fetch")(held(core, fetch))


class _InPieces(Response):
    """A large body is handed over piece by piece: it has its place in the service until its caller has taken it.

    In one piece it would leave for the connection's buffer at once, where nobody counts it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= _IN_ONE:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in cut([bytes(self.body)]):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
