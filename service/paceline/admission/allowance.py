"""A cap or rate of the caller's own (one batch's, or the process's sockets) that several gates draw on.

Pure. A flow that may not go is parked here and entered again when something comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from math import inf

from paceline.admission.copies import Copies
from paceline.model import Cost, Rate
from paceline.rate.window import Hold, Window


class Allowance:
    """At most `limit` in flight, and `rate` where given; none at all while it is shut."""

    __slots__ = ("_blocked", "_shut", "_transit_s", "_window", "in_flight", "limit")

    def __init__(self, limit: float = inf, rate: Rate | None = None, transit_s: float = 0.05) -> None:
        self.limit = limit
        self.in_flight = 0
        self._shut = False
        self._window = Window(rate) if rate else None
        self._transit_s = transit_s
        self._blocked: dict[object, Callable[[], None]] = {}

    @property
    def free(self) -> bool:
        return self.in_flight < self.limit and not self._shut

    @property
    def rate(self) -> Rate | None:
        return self._window.rate if self._window else None

    def shut(self) -> None:
        """Let nobody go until `reopen`; what is in flight goes on."""
        self._shut = True

    def reopen(self) -> None:
        """Let them go again."""
        if self._shut:
            self._shut = False
            self.wake()

    def due(self, cost: Cost, now: float) -> float:
        """When the own rate allows this cost; in the past where there is none."""
        return -inf if self._window is None else self._window.due(self._own(cost), now, self._transit_s)

    def soonest(self, ahead: float, cost: Cost, now: float) -> float:
        """A lower bound of when the own rate allows this cost if `ahead` requests go before it."""
        if self._window is None:
            return -inf
        counted = ahead if self._window.rate.unit == "requests" else 0.0  # what those cost in another unit is not known
        return self._window.soonest(counted, self._own(cost), now)

    def take(self, cost: Cost, moment: float) -> Hold | None:
        self.in_flight += 1
        return None if self._window is None else self._window.take(self._own(cost), moment)

    def written(self, hold: Hold | None, now: float) -> None:
        """Its token has a day of return now: who waits for it without one may set a timer."""
        if self._window and hold:
            self._window.written(hold, now)
            self.wake()

    def settle(self, hold: Hold | None, answered_at: float | None) -> None:
        """The call is over: its place comes back, and its tokens as the window says."""
        self.in_flight -= 1
        if self._window and hold:
            if hold.written_at is None:
                self._window.give_back(hold)
            elif answered_at is not None:
                self._window.answered(hold, answered_at, 0.0, self._transit_s)

    def fork(self, copies: Copies) -> Allowance:
        """Its copy, the same one for every gate that draws on it; open, and nobody is blocked at it yet."""
        fork = copies.allowances.get(self)
        if fork is None:
            fork = copies.allowances[self] = copy(self)
            fork._window = self._window and self._window.fork(copies.holds)
            fork._blocked, fork._shut = {}, False
        return fork

    def block(self, who: object, wake: Callable[[], None]) -> None:
        """Call `wake` once when there is room again."""
        self._blocked[who] = wake

    def forget(self, who: object) -> None:
        self._blocked.pop(who, None)

    def wake(self) -> None:
        """Wake who is blocked, first come first, while there is room; who blocks again meanwhile waits for the next."""
        if not self._blocked:
            return
        for who in list(self._blocked):
            if not self.free:
                return
            wake = self._blocked.pop(who, None)
            if wake is not None:
                wake()

    def _own(self, cost: Cost) -> float:
        """What of a cost the own rate counts."""
        assert self._window is not None
        return cost.get(self._window.rate.unit, 0.0)
