"""The token bucket of `rate/token_bucket.py` in virtual time, as aiolimiter keeps it."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from paceline.admission.forecast import Forecast
from paceline.model import Rate

_ROUNDING = 1e-9


class VirtualBucket:
    """Fills by what is taken and leaks at the rate; smaller amounts overtake, as they do in aiolimiter."""

    def __init__(self, rate: Rate, forecast: Forecast) -> None:
        self.rate = rate
        self.waited_s = 0.0
        self._forecast = forecast
        self._level = 0.0
        self._since = forecast.now
        self._waiting: list[tuple[float, int, float, Callable[[], None]]] = []
        self._order = count()
        self._timer_at = -1.0

    def take(self, cost: float, then: Callable[[], None]) -> None:
        """Call `then` when so much was taken, piece by piece."""
        piece = min(cost, self.rate.burst)
        rest = cost - piece
        after = then if rest <= 0 else (lambda: self.take(rest, then))
        self._leak()
        if self._level + piece <= self.rate.burst + _ROUNDING:
            self._level += piece
            after()
        else:
            heappush(self._waiting, (piece, next(self._order), self._forecast.now, after))
        self._wake()

    def _leak(self) -> None:
        now = self._forecast.now
        self._level = max(0.0, self._level - (now - self._since) * self.rate.per_second)
        self._since = now

    def _wake(self, _: object = None) -> None:
        self._leak()
        waiting = self._waiting
        while waiting and self._level + waiting[0][0] <= self.rate.burst + _ROUNDING:
            piece, _, since, after = heappop(waiting)
            self._level += piece
            self.waited_s += self._forecast.now - since
            after()
        if waiting:
            short = self._level + waiting[0][0] - self.rate.burst
            moment = self._forecast.now + short / self.rate.per_second
            if not self._forecast.now < self._timer_at <= moment:
                self._timer_at = moment
                self._forecast.at(moment, self._wake)
