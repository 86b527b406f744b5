"""Counts in sliding windows, as a strict upstream would count."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


def max_within(moments: Iterable[float], window_s: float) -> int:
    """Return the maximum number of these moments in any half-open stretch of this length."""
    recent: deque[float] = deque()
    most = 0
    for moment in sorted(moments):
        recent.append(moment)
        while moment - recent[0] >= window_s:
            recent.popleft()
        most = max(most, len(recent))
    return most
