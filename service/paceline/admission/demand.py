"""How long each rate window alone would need for what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from paceline.admission.budget import Budget
from paceline.model import Cost, Rate


class Demand:
    """The total cost asked of one budget from a moment on, and how long each of its windows alone would need for it."""

    __slots__ = ("_requested", "_windows")

    def __init__(self, budget: Budget, now: float) -> None:
        self._requested: dict[str, float] = {}
        self._windows = [
            (
                window,
                window.earliest_possible_at(0.0, 0.0, now) - now,
                window.rate.limit - window.remaining(now, budget.transit_s),
            )
            for window in (*budget.windows, *budget.learned_windows)
        ]

    def add(self, cost: Cost) -> None:
        requested = self._requested
        for unit, amount in cost.items():
            requested[unit] = requested.get(unit, 0.0) + amount

    def min_durations_s(self) -> Iterator[tuple[float, Rate]]:
        """Yield the seconds that each window would need if it alone bound the calls."""
        for window, smooth_s, tokens_used in self._windows:
            rate, requested = window.rate, self._requested.get(window.rate.unit, 0.0)
            if requested:
                full_windows = ceil((tokens_used + requested) / rate.limit - 1e-9) - 1
                yield max(smooth_s + requested * window.emission_interval_s, full_windows * rate.per_s), rate
