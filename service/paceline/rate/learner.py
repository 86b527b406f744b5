"""Learns the rate of an upstream that neither the operator nor the upstream itself has given.

Additive increase, multiplicative decrease (Chiu and Jain, "Analysis of the increase and decrease algorithms", 1989)
with the memory of CUBIC (Ha, Rhee and Xu, 2008; RFC 9438), on a rate instead of a window of segments:

* until the first throttle nothing is limited. When that run of throttles is over, the rate is the average that was
  accepted, and the throttled rate is what was accepted until the last throttle;
* a throttle decreases the rate to 0.99 of it, or by the share that was throttled since the last decrease where that is
  more, and records that rate; only sends written after a decrease can cause another;
* a second throttle with no success between means that the allowance is used up, not that the rate is slightly too high:
  the budget pauses, and after the pause both rates are lowered to the average that was accepted. The same holds where a
  throttle named a wait and came early in the climb, as many small steps would cost a wait each;
* from there the rate climbs on a cubic: fast at first, flat near the throttled rate, and faster and faster beyond it.
  It climbs only while this rate blocks the queue. A climb takes 200 sends at least, so that probing a steady limit
  costs about one throttle in 200; after a pause it takes at least twice the pause, as a minute's allowance takes a
  minute to show that it is too small.

The rate is a `RateWindow` with burst 1, about a second long, its limit a whole number: whatever the length of the
upstream's own window, an even pace within its rate is within its limit. It counts from write to write without transit
time, as a declared window does: the effect of transit shows in the throttles.

Pure: moments are arguments (`time.perf_counter()` seconds).
"""

from __future__ import annotations

from collections import deque
from copy import copy
from math import ceil, inf

from paceline.model import Rate
from paceline.rate.window import CopyMemo, RateWindow, TokenHold

LEARNED_UNIT = "requests"
"""A throttle without headers names no unit; every upstream counts requests."""

_DECREASE = 0.99
_DECREASE_WITH_RETRY_AFTER = 0.95
"""Where the throttle names a wait: the wait costs more than the throttle, so the rate stays further below."""
_MIN_THROUGHPUT_SHARE = 0.9
"""A decrease goes no lower than this share of what was accepted just before."""
_MIN_CLIMB_S = 4.0
_MIN_CLIMB_SENDS = 200.0
_CLIMB_PER_THROTTLE_RUN = 2.0
_MIN_CLIMB_DECAY = 0.7
"""The share of the shortest climb of earlier throttle runs that remains after another run."""
_CLIMB_PER_RETRY_AFTER = 10.0
"""A climb lasts at least this many times the wait that its throttle named, so that waits take a small share."""
_MAX_CLIMB_S = 600.0
_MAX_DECREASE = 0.5
_MIN_RATE_PER_S = 0.05
"""A send in 20 s, as often as the longest backoff probes."""
_MIN_RELATIVE_STEP = 0.001
_SAMPLE_INTERVAL_S = 0.25
_MAX_SAMPLES = 256
_MIN_AVERAGING_S = 1.0
_IDLE_AFTER_S = 60.0


class RateLearner:
    """The learned rate of one budget, fed with every send and its result."""

    __slots__ = (
        "_accepted_samples",
        "_accepted_total",
        "_answers_since_decrease",
        "_climb_duration_s",
        "_climb_elapsed_s",
        "_climb_start_rate",
        "_consecutive_throttles",
        "_decreased_at",
        "_first_throttled_at",
        "_is_frozen",
        "_last_granted_at",
        "_last_retry_after_s",
        "_last_throttled_at",
        "_min_climb_s",
        "_throttled_early",
        "_throttled_rate",
        "_throttles_since_decrease",
        "_written_since_decrease",
        "rate_per_s",
        "window",
    )  # fmt: skip

    def __init__(self) -> None:
        self.rate_per_s = inf
        """Requests a second."""
        self.window: RateWindow | None = None
        """Enforces the rate; None until there is one."""
        self._throttled_rate = self._climb_start_rate = inf
        """The rate that was throttled last, and the rate at which the climb began."""
        self._climb_elapsed_s = self._climb_duration_s = 0.0
        self._last_retry_after_s = 0.0
        """The wait that the last throttle named."""
        self._throttled_early = False
        """The last throttle named a wait and came in the first half of a climb."""
        self._last_granted_at = -inf
        self._decreased_at = -inf
        self._consecutive_throttles = 0
        """Throttles with no success between."""
        self._first_throttled_at = self._last_throttled_at = -inf
        """The first and the last of them."""
        self._accepted_total = 0.0
        """Units written and not throttled so far."""
        self._written_since_decrease = 0.0
        """Units written since the last decrease."""
        self._answers_since_decrease = self._throttles_since_decrease = 0
        """Answers since the last decrease, and the throttles among them."""
        self._min_climb_s = 0.0
        """The shortest climb that the last pauses call for."""
        self._accepted_samples: deque[tuple[float, float]] = deque(maxlen=_MAX_SAMPLES)
        """Moments, and the units accepted until each."""
        self._is_frozen = False

    def take(self, amount: float, allowed_at: float, *, rate_bound: bool, now: float) -> TokenHold:
        """Take tokens for a grant in the adaptive lane; `rate_bound`: it waited for this rate alone."""
        assert self.window is not None
        if rate_bound:
            max_idle_s = max(1.0, 2 / self.rate_per_s)
            self._climb(min(now - self._last_granted_at, max_idle_s), now)
        self._last_granted_at = now
        return self.window.take(amount, allowed_at, rate_bound=rate_bound)

    def on_written(self, amount: float, now: float) -> None:
        """Count a request that was written."""
        if not self._accepted_samples or now - self._accepted_samples[-1][0] >= _SAMPLE_INTERVAL_S:
            self._accepted_samples.append((now, self._accepted_total))
        self._accepted_total += amount
        self._written_since_decrease += amount

    def on_accepted(self, written_at: float, now: float) -> bool:
        """Count an accepted request. True when this created the window, which counts no send in flight."""
        self._answers_since_decrease += 1
        if not self._consecutive_throttles or written_at <= self._decreased_at:
            return False
        is_first = self.window is None
        if is_first or self._consecutive_throttles > 1 or self._throttled_early:
            self._restart_from_average(written_at, now)
        self._consecutive_throttles = 0
        return is_first and self.window is not None

    def on_throttled(self, amount: float, written_at: float, now: float, retry_after_s: float) -> bool:
        """Count a throttle, with the wait it named or 0.

        True where decreasing the rate is enough; False where the budget should pause as well.
        """
        self._accepted_total -= amount
        self._answers_since_decrease += 1
        self._throttles_since_decrease += 1
        if written_at <= self._decreased_at:
            return self._consecutive_throttles < 2 and self.window is not None
        max_factor = _DECREASE_WITH_RETRY_AFTER if retry_after_s else _DECREASE
        factor = max(
            _MAX_DECREASE, min(max_factor, 1 - (self._throttles_since_decrease - 1) / self._answers_since_decrease)
        )
        self._answers_since_decrease = self._throttles_since_decrease = 0
        self._decreased_at = self._last_throttled_at = now
        self._written_since_decrease = 0.0
        self._consecutive_throttles += 1
        if self._consecutive_throttles == 1:
            self._first_throttled_at = now
        if self.window is None or self._consecutive_throttles > 1:
            return False
        self._last_retry_after_s = retry_after_s
        self._throttled_early = retry_after_s > 0 and self._climb_elapsed_s < self._climb_duration_s / 2
        self._throttled_rate = self.rate_per_s
        min_rate = min(
            self.rate_per_s, _MIN_THROUGHPUT_SHARE * self._average_rate_since(now - max(1.0, 20 / self.rate_per_s), now)
        )
        self._begin_climb(max(factor * self.rate_per_s, min_rate), now)
        return True

    def is_idle(self, now: float) -> bool:
        """No recent throttle, so that little is lost if this is dropped."""
        return self._last_throttled_at <= now - _IDLE_AFTER_S

    def copy(self, memo: CopyMemo) -> RateLearner:
        """Copy the learner, for a simulation, in which nothing is refused: the rate of the copy stays as it is."""
        clone = copy(self)
        clone.window = self.window and self.window.copy(memo)
        clone._accepted_samples = self._accepted_samples.copy()
        clone._is_frozen = True
        return clone

    def _restart_from_average(self, recovered_at: float, now: float) -> None:
        """Restart after a run of throttles from the average that was accepted until it was over."""
        first_at = self._first_throttled_at - max(_MIN_AVERAGING_S, 2 * (recovered_at - self._first_throttled_at))
        first_at, accepted_before = self._first_sample_since(first_at)
        accepted = self._accepted_total - self._written_since_decrease - accepted_before
        if accepted <= 0 or self._last_throttled_at <= first_at:
            return
        self._min_climb_s = max(
            _CLIMB_PER_THROTTLE_RUN * (recovered_at - self._first_throttled_at), _MIN_CLIMB_DECAY * self._min_climb_s
        )
        self._throttled_rate = min(self._throttled_rate, accepted / (self._last_throttled_at - first_at))
        self._begin_climb(min(self.rate_per_s, accepted / (recovered_at - first_at)), now)

    def _begin_climb(self, rate: float, now: float) -> None:
        self._climb_start_rate = rate
        self._climb_elapsed_s = 0.0
        self._climb_duration_s = min(
            _MAX_CLIMB_S,
            max(
                _MIN_CLIMB_S,
                _MIN_CLIMB_SENDS / rate,
                _CLIMB_PER_RETRY_AFTER * self._last_retry_after_s,
                self._min_climb_s,
            ),
        )
        self._set_rate(rate, now)

    def _climb(self, elapsed_s: float, now: float) -> None:
        if self._is_frozen:
            return
        self._climb_elapsed_s += elapsed_s
        depth = max(self._throttled_rate - self._climb_start_rate, (1 - _DECREASE) * self._throttled_rate)
        rate = self._throttled_rate + depth * (self._climb_elapsed_s / self._climb_duration_s - 1) ** 3
        if rate > self.rate_per_s * (1 + _MIN_RELATIVE_STEP):
            self._set_rate(rate, now)

    def _set_rate(self, rate: float, now: float) -> None:
        self.rate_per_s = max(rate, _MIN_RATE_PER_S)
        limit = ceil(self.rate_per_s)
        paced_rate = Rate(limit, limit / self.rate_per_s, 1.0, LEARNED_UNIT)
        if self.window is None:
            self.window = RateWindow(paced_rate)
        else:
            self.window.retune(paced_rate, now)

    def _average_rate_since(self, since: float, now: float) -> float:
        first_at, accepted_before = self._first_sample_since(since)
        return (self._accepted_total - accepted_before) / max(now - first_at, _SAMPLE_INTERVAL_S)

    def _first_sample_since(self, since: float) -> tuple[float, float]:
        for sample in self._accepted_samples:
            if sample[0] >= since:
                return sample
        return self._accepted_samples[-1] if self._accepted_samples else (inf, 0.0)
