"""The outermost layer: an item ends at its batch's deadline, wherever it is."""

from __future__ import annotations

import time
from collections.abc import Callable

from paceline.errors import DeadlineExceeded
from paceline.model import Receipt, Request, Response, Send
from paceline.resilience.cancel_timer import CancelTimer
from paceline.units import format_seconds


class DeadlineLayer:
    """Ends an item at its deadline, in any layer; `is_paused`: whether an operator pauses its upstream now."""

    def __init__(self, is_paused: Callable[[], bool]) -> None:
        self._is_paused = is_paused

    async def __call__(self, request: Request, call_next: Send) -> Response:
        remaining_s = request.deadline - time.perf_counter()
        if remaining_s > 0:
            with CancelTimer(remaining_s):
                return await call_next(request)
        raise DeadlineExceeded(
            "the batch's deadline passed before this item had its answer: "
            f"{_explain_longest_wait(request.receipt, self._is_paused())}",
            sent=request.receipt.sent,
        )


def _explain_longest_wait(receipt: Receipt, is_paused: bool) -> str:
    """The longest wait, and what to do about it."""
    waits = (
        (receipt.upstream_s, "for the upstream to answer", "allow more time"),
        (receipt.rate_wait_s, "for its turn within the rate", "allow more time or send fewer items"),
        (receipt.queue_s, "for one of the calls allowed in flight to end", "allow more time or more concurrency"),
        (receipt.pause_s, "for a pause of the upstream to end", "allow more time or send it again later"),
        (receipt.backoff_s, "between its attempts", "allow more time"),
    )
    longest_s, what, fix = max(waits)
    if is_paused and (longest_s > receipt.upstream_s or longest_s <= 0):
        return "an operator has paused its upstream; resume it, or send the item again later"
    if longest_s <= 0:
        return "its turn never came; allow more time or send fewer items"
    return f"it waited {format_seconds(longest_s, 3)} {what}; {fix}"
