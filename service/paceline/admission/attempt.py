"""An attempt as its budget sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

from paceline.admission.lane import Lane
from paceline.model import Cost, Priority, Receipt
from paceline.rate.window import CopyMemo, RateWindow, TokenHold


class Attempt(Protocol):
    """What a budget reads and writes of an attempt, waiting or granted; a `Waiter` is one."""

    cost: Cost
    amounts: tuple[tuple[str, float], ...]
    lane: Lane
    priority: Priority
    receipt: Receipt
    holds: list[tuple[RateWindow, TokenHold]]
    granted_at: float | None
    written_at: float | None
    written_totals: Mapping[str, float]

    def copy(self, memo: CopyMemo) -> Self: ...


def count_grant(window: RateWindow, attempt: Attempt, allowed_at: float) -> None:
    """Count a grant in a window, whether or not the window bound it."""
    amount = attempt.cost.get(window.rate.unit)
    if amount:
        hold = window.take(amount, allowed_at)
        attempt.holds.append((window, hold))
        if attempt.written_at is not None:
            window.mark_written(hold, attempt.written_at)
