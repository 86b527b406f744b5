"""The token bucket of `rate/token_bucket.py` in virtual time, as aiolimiter keeps it."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from paceline.admission.forecast import Simulation
from paceline.model import Rate

_ROUNDING_TOLERANCE = 1e-9


class SimulatedTokenBucket:
    """A bucket that fills by what is taken and leaks at the rate; smaller amounts overtake, as in aiolimiter."""

    def __init__(self, rate: Rate, simulation: Simulation) -> None:
        self.rate = rate
        self.total_wait_s = 0.0
        self._simulation = simulation
        self._level = 0.0
        self._leaked_at = simulation.now
        self._waiters: list[tuple[float, int, float, Callable[[], None]]] = []
        self._sequence = count()
        self._timer_at = -1.0

    def acquire(self, cost: float, on_acquired: Callable[[], None]) -> None:
        """Call `on_acquired` when all of `cost` was taken, in chunks of at most the burst."""
        chunk = min(cost, self.rate.burst)
        remaining_cost = cost - chunk
        on_chunk = on_acquired if remaining_cost <= 0 else (lambda: self.acquire(remaining_cost, on_acquired))
        self._leak()
        if self._level + chunk <= self.rate.burst + _ROUNDING_TOLERANCE:
            self._level += chunk
            on_chunk()
        else:
            heappush(self._waiters, (chunk, next(self._sequence), self._simulation.now, on_chunk))
        self._grant_waiters()

    def _leak(self) -> None:
        now = self._simulation.now
        self._level = max(0.0, self._level - (now - self._leaked_at) * self.rate.per_second)
        self._leaked_at = now

    def _grant_waiters(self, _: object = None) -> None:
        self._leak()
        waiters = self._waiters
        while waiters and self._level + waiters[0][0] <= self.rate.burst + _ROUNDING_TOLERANCE:
            chunk, _, queued_at, on_chunk = heappop(waiters)
            self._level += chunk
            self.total_wait_s += self._simulation.now - queued_at
            on_chunk()
        if waiters:
            excess = self._level + waiters[0][0] - self.rate.burst
            due_at = self._simulation.now + excess / self.rate.per_second
            if not self._simulation.now < self._timer_at <= due_at:
                self._timer_at = due_at
                self._simulation.schedule(due_at, self._grant_waiters)
