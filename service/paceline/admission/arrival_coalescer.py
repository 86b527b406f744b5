"""Coalescing of arrivals: the items of a batch arrive one by one, and a scarce grant should consider all of them."""

from __future__ import annotations

MAX_COALESCE_S = 0.02
_QUIET_ITERATIONS = 2


class ArrivalCoalescer:
    """Waits until no waiter has arrived for two iterations of the event loop, or until a moment."""

    __slots__ = ("_ends_at", "_last_queued", "_quiet_iterations")

    def __init__(self, queued: int, ends_at: float) -> None:
        self._last_queued, self._ends_at, self._quiet_iterations = queued, ends_at, 0

    def should_keep_waiting(self, queued: int, now: float) -> bool:
        """Decide after one iteration of the event loop, with the number of waiters then."""
        self._quiet_iterations = 0 if queued > self._last_queued else self._quiet_iterations + 1
        self._last_queued = queued
        return self._quiet_iterations < _QUIET_ITERATIONS and now < self._ends_at
