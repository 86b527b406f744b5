"""The innermost layer: an attempt ends at its own timeout."""

from __future__ import annotations

from paceline.errors import AttemptTimeout, ItemTimeout
from paceline.model import Request, Response, Send
from paceline.resilience.cancel_timer import CancelTimer
from paceline.units import format_seconds


class AttemptTimeoutLayer:
    """Ends an attempt at its own timeout, or when the item's time in flight and in backoff is used up."""

    async def __call__(self, request: Request, call_next: Send) -> Response:
        receipt = request.receipt
        remaining_s = request.timeout_s - receipt.upstream_s - receipt.backoff_s
        with CancelTimer(min(remaining_s, request.attempt_timeout_s)):
            return await call_next(request)
        sent = request.exchange.written_at is not None
        if remaining_s <= request.attempt_timeout_s:
            raise ItemTimeout(
                f"no answer within the item's timeout of {format_seconds(request.timeout_s)} in flight and backoff",
                sent=sent,
            )
        raise AttemptTimeout(f"no answer within {format_seconds(request.attempt_timeout_s)}", sent=sent)
