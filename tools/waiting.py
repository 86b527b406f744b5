"""The one loop that waits for a condition of which no event tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable

WAIT_TIMEOUT_S = 10.0
"""Long, since the machine may be busy."""


async def wait_until(
    condition: Callable[[], object],
    *,
    timeout_s: float = WAIT_TIMEOUT_S,
    interval_s: float = 0.005,
    what: str = "the condition",
) -> None:
    """Evaluate a condition, which may be a coroutine function, until it is true.

    Raises:
        TimeoutError: it was not true in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while not await _is_true(condition()):  # noqa: ASYNC110 - a condition of any kind, also of another process
                await asyncio.sleep(interval_s)
    except TimeoutError:
        raise TimeoutError(f"not true within {timeout_s:g} s: {what}") from None


async def _is_true(result: object) -> bool:
    return bool(await result if isawaitable(result) else result)
