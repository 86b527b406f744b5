"""How long the calls of an upstream take, so that a forecast can assume it."""

from __future__ import annotations

UNSEEN_S = 0.1
"""Assumed where no call was seen yet."""

_REMEMBERED = 512


class CallTime:
    """The mean time from a grant to its settlement: plain over the first 512 calls, then moving by a 512th each.

    The mean and not the median: under a cap of C calls in flight, C / mean is what gets through (Little, 1961).
    """

    __slots__ = ("_mean_s", "_reused", "_seen")

    def __init__(self) -> None:
        self._seen = 0
        self._mean_s = UNSEEN_S
        self._reused = 1.0

    @property
    def mean_s(self) -> float:
        return self._mean_s

    @property
    def reuses(self) -> bool:
        """Most calls go over connections that were used before, so that their round trips can be told."""
        return self._reused > 0.5

    def add(self, duration_s: float, *, reused: bool) -> None:
        """A call is over."""
        self._seen = min(self._seen + 1, _REMEMBERED)
        self._mean_s += (duration_s - self._mean_s) / self._seen
        self._reused += (reused - self._reused) / self._seen
