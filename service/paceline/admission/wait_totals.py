"""Seconds waited so far, by reason. The waits of an item are the difference of two snapshots."""

from __future__ import annotations

from paceline.model import WaitReason

_RATE, _CONCURRENCY = WaitReason.RATE, WaitReason.CONCURRENCY
"""As module constants, as in the other files of this package: under Python 3.11 an enum lookup costs 70 ns."""


class WaitTotals:
    """Seconds by reason; they only grow, except for what `subtract_since` corrects."""

    __slots__ = ("concurrency_s", "pause_s", "rate_s")

    def __init__(self) -> None:
        self.rate_s = self.concurrency_s = self.pause_s = 0.0

    def add(self, reason: WaitReason, duration_s: float) -> None:
        if reason is _RATE:
            self.rate_s += duration_s
        elif reason is _CONCURRENCY:
            self.concurrency_s += duration_s
        else:
            self.pause_s += duration_s

    def snapshot(self) -> tuple[float, float, float]:
        """Return rate, concurrency, pause."""
        return self.rate_s, self.concurrency_s, self.pause_s

    def add_since(self, other: WaitTotals, baseline: tuple[float, float, float]) -> None:
        """Add what `other` grew by since its snapshot was `baseline`."""
        self.rate_s += other.rate_s - baseline[0]
        self.concurrency_s += other.concurrency_s - baseline[1]
        self.pause_s += other.pause_s - baseline[2]

    def subtract_since(self, other: WaitTotals, baseline: tuple[float, float, float]) -> None:
        """Subtract what `other` grew by since its snapshot was `baseline`."""
        self.rate_s -= other.rate_s - baseline[0]
        self.concurrency_s -= other.concurrency_s - baseline[1]
        self.pause_s -= other.pause_s - baseline[2]
