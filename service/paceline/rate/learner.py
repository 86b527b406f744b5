"""Learns the rate of an upstream that neither an operator nor the upstream itself told us.

Additive increase, multiplicative decrease (Chiu and Jain, "Analysis of the increase and decrease algorithms", 1989)
with the memory of CUBIC (Ha, Rhee and Xu, 2008; RFC 9438), on a rate instead of a window of segments:

* until the first throttle nothing is limited. When the refusals it began are over, the rate is what went through on
  average, and the rate remembered as refused is what went through until the last refusal;
* a refusal cuts the rate to 0.99 of it, or by the share that was refused since the last cut where that is more, and
  remembers where that was; only sends written after a cut can cut again;
* a second refusal with no success between says that the allowance is used up, not that the rate is one too high: the
  budget pauses, and when it is over, rate and memory are lowered to what went through on average; so they are where a
  refusal named a wait and came early in the climb, as many small steps would cost a wait each;
* from there the rate climbs on a cubic: fast at first, flat near the remembered rate, and faster and faster beyond it.
  It climbs only while it is this rate that holds the queue. A climb takes 200 sends at least, so that probing a
  steady limit costs about one refusal in as many; and after a pause it takes twice as long
  as that, as a minute's allowance takes a minute to show that it is too small.

The rate is kept as a `Window` of an even beat (burst 1), about a second long, its limit a whole number: whatever the
length of the upstream's own window, an even beat within its rate is within its limit. It counts from write to write
and allows nothing for the way there, as a declared window does: what the way costs shows in the refusals.

Pure: moments are arguments (`time.perf_counter()` seconds).
"""

from __future__ import annotations

from collections import deque
from copy import copy
from math import ceil, inf

from paceline.model import Rate
from paceline.rate.window import HoldMemo, RateWindow, TokenHold

LEARNED_UNIT = "requests"
"""A bare refusal names no unit; requests are what every upstream counts."""

_DECREASE = 0.99
_DECREASE_WITH_RETRY_AFTER = 0.95
"""Where the refusal names a wait: it costs more than a refusal, so stay farther away."""
_MIN_THROUGHPUT_SHARE = 0.9
"""A cut goes no lower than this share of what went through just before: it was above what is let through."""
_MIN_CLIMB_S = 4.0
_MIN_CLIMB_SENDS = 200.0
_CLIMB_PER_THROTTLE_RUN = 2.0
_MIN_CLIMB_DECAY = 0.7
"""Of what the last runs of refusals say of the shortest climb, what is left after another."""
_CLIMB_PER_RETRY_AFTER = 10.0
"""A climb lasts so many times the wait that its refusal named, so that waits take a small share of the time."""
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
    """The learned rate of one budget, fed with every send and what became of it."""

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
        """What keeps to the rate; None until there is one."""
        self._throttled_rate = self._climb_start_rate = inf
        """Where it was refused last, and where the climb from there began."""
        self._climb_elapsed_s = self._climb_duration_s = 0.0
        self._last_retry_after_s = 0.0
        """The wait that the last refusal named."""
        self._throttled_early = False
        """And it came soon after the one before."""
        self._last_granted_at = -inf
        self._decreased_at = -inf
        self._consecutive_throttles = 0
        """Refusals with no success between."""
        self._first_throttled_at = self._last_throttled_at = -inf
        """The first and the last of them."""
        self._accepted_total = 0.0
        """What was written in all and not refused so far."""
        self._written_since_decrease = 0.0
        """What was written since the last cut."""
        self._answers_since_decrease = self._throttles_since_decrease = 0
        """Answers since the last cut, and refusals among them."""
        self._min_climb_s = 0.0
        """The shortest climb that the last pauses speak for."""
        self._accepted_samples: deque[tuple[float, float]] = deque(maxlen=_MAX_SAMPLES)
        """How much had passed at which moment."""
        self._is_frozen = False

    def take(self, amount: float, allowed_at: float, *, rate_bound: bool, now: float) -> TokenHold:
        """A grant in the adaptive lane; `held`: it waited for this rate alone."""
        assert self.window is not None
        if rate_bound:
            max_idle_s = max(1.0, 2 / self.rate_per_s)
            self._climb(min(now - self._last_granted_at, max_idle_s), now)
        self._last_granted_at = now
        return self.window.take(amount, allowed_at, rate_bound=rate_bound)

    def on_written(self, amount: float, now: float) -> None:
        """A request went to the upstream."""
        if not self._accepted_samples or now - self._accepted_samples[-1][0] >= _SAMPLE_INTERVAL_S:
            self._accepted_samples.append((now, self._accepted_total))
        self._accepted_total += amount
        self._written_since_decrease += amount

    def on_accepted(self, written_at: float, now: float) -> bool:
        """The upstream let a request through. True when this made the window, which knows of no send in flight."""
        self._answers_since_decrease += 1
        if not self._consecutive_throttles or written_at <= self._decreased_at:
            return False
        is_first = self.window is None
        if is_first or self._consecutive_throttles > 1 or self._throttled_early:
            self._restart_from_average(written_at, now)
        self._consecutive_throttles = 0
        return is_first and self.window is not None

    def on_throttled(self, amount: float, written_at: float, now: float, retry_after_s: float) -> bool:
        """The upstream refused a request for its rate, naming a wait or 0.

        True where the cut is answer enough; False where the budget should pause as well.
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
        """Nothing was refused lately, so that little is lost if this is forgotten."""
        return self._last_throttled_at <= now - _IDLE_AFTER_S

    def copy(self, memo: HoldMemo) -> RateLearner:
        """A copy to be run ahead of time by itself, where nothing is refused: its rate stays."""
        clone = copy(self)
        clone.window = self.window and self.window.copy(memo)
        clone._accepted_samples = self._accepted_samples.copy()
        clone._is_frozen = True
        return clone

    def _restart_from_average(self, recovered_at: float, now: float) -> None:
        """The refusals of a run are over: what went through before them, over the time until they were."""
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
