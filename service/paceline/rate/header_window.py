"""One window as rate headers advertise it: what remains of it, corrected by what was sent since.

Pure: moments are arguments (`time.perf_counter()` seconds).
"""

from __future__ import annotations

from math import inf

from paceline.rate.rate_info import RateWindowInfo
from paceline.rate.usage import UsageCounters

_DEFAULT_RESET_S = 1.0
"""Seconds that a `remaining` without a reset or a length is trusted."""


class HeaderWindow:
    """One window, as the last response that advertises it says."""

    __slots__ = (
        "limit",
        "max_wait_s",
        "per_s",
        "probing",
        "refill_per_s",
        "remaining",
        "reset_at",
        "reset_capped",
        "reset_interval_s",
        "unit",
        "updated_at",
        "written_at",
        "written_baseline",
    )  # fmt: skip

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.max_wait_s = inf
        self.limit: float | None = None
        self.per_s: float | None = None
        self.remaining: float = inf
        self.reset_at = inf
        self.reset_interval_s = _DEFAULT_RESET_S
        """From the last response to its reset: where no length is advertised, the next reset is as far away."""
        self.reset_capped = False
        """The reset is further away than `max_wait_s`, so one call probes what is available before it."""
        self.probing = False
        """One call may go whatever remains, to read the current state."""
        self.refill_per_s = 0.0
        self.written_baseline = 0.0
        """Units written in total when the request of that response was."""
        self.updated_at = self.written_at = -inf

    def usable(self, usage: UsageCounters, now: float) -> float:
        """Units that may still be granted."""
        if self.remaining == inf:
            return inf
        spent = max(0.0, usage.written.get(self.unit, 0.0) - self.written_baseline) + usage.unwritten.get(
            self.unit, 0.0
        )
        refilled = max(0.0, now - self.updated_at) * self.refill_per_s
        return min(self.remaining + refilled, self.limit or inf) - spent

    def refill(self, usage: UsageCounters, now: float) -> None:
        """Restore the limit at the reset; what is in flight may be counted in the new window."""
        if now < self.reset_at:
            return
        if self.reset_capped and self.usable(usage, now) >= 1:
            self.reset_at = now + self.max_wait_s
            return
        self.probing = self.reset_capped
        self.remaining = 1.0 if self.reset_capped else inf if self.limit is None else self.limit
        self.written_baseline = usage.written.get(self.unit, 0.0) - usage.in_flight.get(self.unit, 0.0)
        self.updated_at, self.refill_per_s = now, 0.0
        self._reset_in(inf if self.remaining == inf else self.per_s or self.reset_interval_s, now)

    def _reset_in(self, after_s: float, now: float) -> None:
        self.reset_capped = self.max_wait_s < after_s < inf
        self.reset_at = now + (self.max_wait_s if self.reset_capped else after_s)

    def update(
        self,
        info: RateWindowInfo,
        usage: UsageCounters,
        written_at: float,
        written_baseline: float,
        now: float,
        max_wait_s: float,
    ) -> None:
        """Apply what a further response says about it."""
        self.limit = info.limit if info.limit is not None else self.limit
        self.per_s = info.per_s if info.per_s is not None else self.per_s
        self.max_wait_s = max_wait_s
        if info.remaining is None:
            return
        previous = (
            self.remaining,
            self.written_baseline,
            self.updated_at,
            self.reset_at,
            self.refill_per_s,
            self.reset_capped,
            self.probing,
        )
        usable = self.usable(usage, now)
        after_s = info.reset_after_s
        self.remaining, self.written_baseline, self.updated_at = info.remaining, written_baseline, now
        self.refill_per_s, self.probing = 0.0, False
        if after_s is None:
            after_s = self.per_s or _DEFAULT_RESET_S
        else:
            after_s += 1.0 if info.whole_seconds else 0.0
            if info.refills and self.limit is not None and after_s > 0:
                self.refill_per_s = max(0.0, self.limit - info.remaining) / after_s
        self._reset_in(after_s, now)
        self.reset_interval_s = max(_DEFAULT_RESET_S, after_s)
        if written_at < self.written_at and self.usable(usage, now) > usable:
            (
                self.remaining,
                self.written_baseline,
                self.updated_at,
                self.reset_at,
                self.refill_per_s,
                self.reset_capped,
                self.probing,
            ) = previous
        self.written_at = max(self.written_at, written_at)

    def due_at(self, cost: float, reserve: float, usage: UsageCounters, now: float) -> float:
        """When this cost may be granted with `reserve` remaining; -inf where it may be now."""
        self.refill(usage, now)
        shortfall = (min(cost, 1.0) if self.probing else cost) + reserve - self.usable(usage, now)
        if shortfall <= 1e-9:
            return -inf
        if self.refill_per_s > 0:
            return min(self.reset_at, now + shortfall / self.refill_per_s)
        return self.reset_at
