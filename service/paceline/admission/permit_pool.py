"""A concurrency cap and rate that several gates share: one batch's own, or the process's sockets.

Pure. A caller that finds no capacity registers a callback, which is called once when capacity is free again.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from math import inf

from paceline.model import Cost, Rate
from paceline.rate.window import CopyMemo, RateWindow, TokenHold


class PermitPool:
    """At most `limit` calls in flight, and `rate` where given; none while it is paused."""

    __slots__ = ("_paused", "_transit_s", "_waiters", "_window", "in_flight", "limit")

    def __init__(self, limit: float = inf, rate: Rate | None = None, transit_s: float = 0.05) -> None:
        self.limit = limit
        self.in_flight = 0
        self._paused = False
        self._window = RateWindow(rate) if rate else None
        self._transit_s = transit_s
        self._waiters: dict[object, Callable[[], None]] = {}

    @property
    def has_capacity(self) -> bool:
        return self.in_flight < self.limit and not self._paused

    @property
    def rate(self) -> Rate | None:
        return self._window.rate if self._window else None

    def pause(self) -> None:
        """Grant nothing until `resume`; calls in flight continue."""
        self._paused = True

    def resume(self) -> None:
        """Grant again, and notify the waiters."""
        if self._paused:
            self._paused = False
            self.notify()

    def due_at(self, cost: Cost, now: float) -> float:
        """Return when the pool's rate allows this cost; `-inf` without a rate."""
        return -inf if self._window is None else self._window.due_at(self._counted_amount(cost), now, self._transit_s)

    def earliest_possible_at(self, ahead: float, cost: Cost, now: float) -> float:
        """Return a lower bound of when the pool's rate allows this cost if `ahead` requests go before it."""
        if self._window is None:
            return -inf
        counted = ahead if self._window.rate.unit == "requests" else 0.0  # their cost in another unit is unknown
        return self._window.earliest_possible_at(counted, self._counted_amount(cost), now)

    def take(self, cost: Cost, allowed_at: float) -> TokenHold | None:
        self.in_flight += 1
        return None if self._window is None else self._window.take(self._counted_amount(cost), allowed_at)

    def mark_written(self, hold: TokenHold | None, now: float) -> None:
        """Record that a call was written: its tokens now have a time of return, so waiters can set a timer."""
        if self._window and hold:
            self._window.mark_written(hold, now)
            self.notify()

    def settle(self, hold: TokenHold | None, answered_at: float | None) -> None:
        """Release the permit of a call that is over, and its tokens as the window says."""
        self.in_flight -= 1
        if self._window and hold:
            if hold.written_at is None:
                self._window.release(hold)
            elif answered_at is not None:
                self._window.mark_answered(hold, answered_at, 0.0, self._transit_s)

    def copy(self, memo: CopyMemo) -> PermitPool:
        """Copy this pool, once for all gates that share it; the copy is not paused and has no waiters."""
        clone: PermitPool | None = memo.get(self)
        if clone is None:
            clone = memo[self] = copy(self)
            clone._window = self._window and self._window.copy(memo)
            clone._waiters, clone._paused = {}, False
        return clone

    def add_waiter(self, key: object, callback: Callable[[], None]) -> None:
        """Call `callback` once when there is capacity again."""
        self._waiters[key] = callback

    def remove_waiter(self, key: object) -> None:
        self._waiters.pop(key, None)

    def notify(self) -> None:
        """Call the waiters, first come first, while there is capacity; one added meanwhile waits for the next call."""
        if not self._waiters:
            return
        for key in list(self._waiters):
            if not self.has_capacity:
                return
            callback = self._waiters.pop(key, None)
            if callback is not None:
                callback()

    def _counted_amount(self, cost: Cost) -> float:
        """Return the part of a cost that the pool's rate counts."""
        assert self._window is not None
        return cost.get(self._window.rate.unit, 0.0)
