"""Time limits: the item's deadline, outermost, and the attempt's timeout, innermost.

Both use `CancelTimer`, which does what `asyncio.timeout_at` does at a sixth of its cost: every item has two.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType

from paceline.errors import AttemptTimeout, DeadlineExceeded, ItemTimeout
from paceline.model import Receipt, Request, Response, Send
from paceline.units import format_seconds


class CancelTimer:
    """Cancel the body of a `with` after `delay_s`; that cancellation, and no other, ends with the block.

    Code after the block runs only if the timer fired.
    """

    __slots__ = ("_cancelling_before", "_delay_s", "_fired", "_task", "_timer")

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._fired = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling_before = task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, self._delay_s), self._fire)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._timer.cancel()
        if not self._fired:
            return False
        # The task may have been cancelled from outside as well: that cancellation propagates.
        return self._task.uncancel() <= self._cancelling_before and kind is asyncio.CancelledError

    def _fire(self) -> None:
        self._fired = True
        self._task.cancel()


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
