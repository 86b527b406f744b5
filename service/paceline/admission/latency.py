"""The mean latency of an upstream's calls, which a simulation assumes for all calls."""

from __future__ import annotations

DEFAULT_LATENCY_S = 0.1
"""Assumed before the first call."""

_MAX_SAMPLES = 512


class MeanLatency:
    """The mean time from a grant to its settlement: plain over the first 512 calls, then moving by a 512th each.

    The mean and not the median: under a cap of C calls in flight, C / mean is what gets through (Little, 1961).
    """

    __slots__ = ("_mean_s", "_reused_share", "_samples")

    def __init__(self) -> None:
        self._samples = 0
        self._mean_s = DEFAULT_LATENCY_S
        self._reused_share = 1.0

    @property
    def mean_s(self) -> float:
        return self._mean_s

    @property
    def mostly_reuses_connections(self) -> bool:
        """Whether most calls use connections that were used before, so that their round trips can be measured."""
        return self._reused_share > 0.5

    def add(self, duration_s: float, *, reused: bool) -> None:
        """Record a call that is over."""
        self._samples = min(self._samples + 1, _MAX_SAMPLES)
        self._mean_s += (duration_s - self._mean_s) / self._samples
        self._reused_share += (reused - self._reused_share) / self._samples
