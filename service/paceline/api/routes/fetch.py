"""`POST /v1/fetch`: one request in, one outcome out."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paceline.api.batch_reader import read_fetch
from paceline.api.batch_responses import ResponseBudget, split_chunks
from paceline.api.content_negotiation import JSON
from paceline.api.dependencies import ApiContext, get_tenant
from paceline.api.disconnect import run_until_disconnect
from paceline.api.load_shedding import Reservation
from paceline.api.with_reservation import with_reservation
from paceline.batch.validation import build_fetch_batch

_MAX_WRITE_BYTES = 64 * 1024


def add_routes(app: FastAPI, context: ApiContext) -> None:
    async def run_fetch(request: Request, reservation: Reservation) -> Response:
        limits = context.config.server
        body = await read_fetch(request, reservation, limits)
        batch = build_fetch_batch(body, get_tenant(request.scope), limits)
        reservation.reserve_items(1)
        budget = ResponseBudget(reservation, limits.max_batch_response)
        outcomes: list[bytes] = []
        run = context.runner.run(batch, lambda outcome: outcomes.append(budget.encode_outcome(outcome)))
        await run_until_disconnect(request.receive, run)
        return _ChunkedResponse(outcomes[0], media_type=JSON)

    app.post("/v1/fetch", response_model=None, name="fetch")(with_reservation(context, run_fetch))


class _ChunkedResponse(Response):
    """A large body is handed over piece by piece: it has its place in the service until its caller has taken it.

    In one piece it would leave for the connection's buffer at once, where nobody counts it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= _MAX_WRITE_BYTES:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for chunk in split_chunks([bytes(self.body)]):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
