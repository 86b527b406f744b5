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
from paceline.rate.window import Hold, Holds, Window

UNIT = "requests"
"""A bare refusal names no unit; requests are what every upstream counts."""

_CUT = 0.99
_CUT_NAMED = 0.95
"""Where the refusal names a wait: it costs more than a refusal, so stay farther away."""
_LEAST_KEPT = 0.9
"""A cut goes no lower than this share of what went through just before: it was above what is let through."""
_CLIMB_S = 4.0
_CLIMB_SENDS = 200.0
_CLIMB_RUNS = 2.0
_RUN_KEPT = 0.7
"""Of what the last runs of refusals say of the shortest climb, what is left after another."""
_CLIMB_WAITS = 10.0
"""A climb lasts so many times the wait that its refusal named, so that waits take a small share of the time."""
_LONGEST_CLIMB_S = 600.0
_DEEPEST_CUT = 0.5
_SLOWEST = 0.05
"""A send in 20 s, as often as the longest backoff probes."""
_STEP = 0.001
_MARK_S = 0.25
_MARKS = 256
_LEAST_LOOK_BACK_S = 1.0
_KEPT_S = 60.0


class Learner:
    """The learned rate of one budget, fed with every send and what became of it."""

    __slots__ = ("_answers", "_climbed_s", "_cut_at", "_early", "_fixed", "_floor", "_in_row", "_length_s", "_marks",
                 "_passed", "_peak", "_refused", "_refused_at", "_run_at", "_since_cut", "_slow_s", "_taken_at",
                 "_wait_s", "rate", "window")  # fmt: skip

    def __init__(self) -> None:
        self.rate = inf
        """Requests a second."""
        self.window: Window | None = None
        """What keeps to the rate; None until there is one."""
        self._peak = self._floor = inf
        """Where it was refused last, and where the climb from there began."""
        self._climbed_s = self._length_s = 0.0
        self._wait_s = 0.0
        """The wait that the last refusal named."""
        self._early = False
        """And it came soon after the one before."""
        self._taken_at = -inf
        self._cut_at = -inf
        self._in_row = 0
        """Refusals with no success between."""
        self._run_at = self._refused_at = -inf
        """The first and the last of them."""
        self._passed = 0.0
        """What was written in all and not refused so far."""
        self._since_cut = 0.0
        """What was written since the last cut."""
        self._answers = self._refused = 0
        """Answers since the last cut, and refusals among them."""
        self._slow_s = 0.0
        """The shortest climb that the last pauses speak for."""
        self._marks: deque[tuple[float, float]] = deque(maxlen=_MARKS)
        """How much had passed at which moment."""
        self._fixed = False

    def take(self, amount: float, moment: float, *, held: bool, now: float) -> Hold:
        """A grant in the adaptive lane; `held`: it waited for this rate alone."""
        assert self.window is not None
        if held:
            longest_s = max(1.0, 2 / self.rate)
            self._climb(min(now - self._taken_at, longest_s), now)
        self._taken_at = now
        return self.window.take(amount, moment, held=held)

    def wrote(self, amount: float, now: float) -> None:
        """A request went to the upstream."""
        if not self._marks or now - self._marks[-1][0] >= _MARK_S:
            self._marks.append((now, self._passed))
        self._passed += amount
        self._since_cut += amount

    def passed(self, written_at: float, now: float) -> bool:
        """The upstream let a request through. True when this made the window, which knows of no send in flight."""
        self._answers += 1
        if not self._in_row or written_at <= self._cut_at:
            return False
        new = self.window is None
        if new or self._in_row > 1 or self._early:
            self._believe_average(written_at, now)
        self._in_row = 0
        return new and self.window is not None

    def refused(self, amount: float, written_at: float, now: float, wait_s: float) -> bool:
        """The upstream refused a request for its rate, naming a wait or 0.

        True where the cut is answer enough; False where the budget should pause as well.
        """
        self._passed -= amount
        self._answers += 1
        self._refused += 1
        if written_at <= self._cut_at:
            return self._in_row < 2 and self.window is not None
        cut = _CUT_NAMED if wait_s else _CUT
        kept = max(_DEEPEST_CUT, min(cut, 1 - (self._refused - 1) / self._answers))
        self._answers = self._refused = 0
        self._cut_at = self._refused_at = now
        self._since_cut = 0.0
        self._in_row += 1
        if self._in_row == 1:
            self._run_at = now
        if self.window is None or self._in_row > 1:
            return False
        self._wait_s = wait_s
        self._early = wait_s > 0 and self._climbed_s < self._length_s / 2
        self._peak = self.rate
        lowest = min(self.rate, _LEAST_KEPT * self._average(now - max(1.0, 20 / self.rate), now))
        self._begin_climb(max(kept * self.rate, lowest), now)
        return True

    def idle(self, now: float) -> bool:
        """Nothing was refused lately, so that little is lost if this is forgotten."""
        return self._refused_at <= now - _KEPT_S

    def fork(self, holds: Holds) -> Learner:
        """A copy to be run ahead of time by itself, where nothing is refused: its rate stays."""
        fork = copy(self)
        fork.window = self.window and self.window.fork(holds)
        fork._marks = self._marks.copy()
        fork._fixed = True
        return fork

    def _believe_average(self, over_at: float, now: float) -> None:
        """The refusals of a run are over: what went through before them, over the time until they were."""
        first_at = self._run_at - max(_LEAST_LOOK_BACK_S, 2 * (over_at - self._run_at))
        first_at, before = self._mark(first_at)
        passed = self._passed - self._since_cut - before
        if passed <= 0 or self._refused_at <= first_at:
            return
        self._slow_s = max(_CLIMB_RUNS * (over_at - self._run_at), _RUN_KEPT * self._slow_s)
        self._peak = min(self._peak, passed / (self._refused_at - first_at))
        self._begin_climb(min(self.rate, passed / (over_at - first_at)), now)

    def _begin_climb(self, rate: float, now: float) -> None:
        self._floor = rate
        self._climbed_s = 0.0
        self._length_s = min(
            _LONGEST_CLIMB_S, max(_CLIMB_S, _CLIMB_SENDS / rate, _CLIMB_WAITS * self._wait_s, self._slow_s)
        )
        self._keep(rate, now)

    def _climb(self, for_s: float, now: float) -> None:
        if self._fixed:
            return
        self._climbed_s += for_s
        depth = max(self._peak - self._floor, (1 - _CUT) * self._peak)
        rate = self._peak + depth * (self._climbed_s / self._length_s - 1) ** 3
        if rate > self.rate * (1 + _STEP):
            self._keep(rate, now)

    def _keep(self, rate: float, now: float) -> None:
        self.rate = max(rate, _SLOWEST)
        limit = ceil(self.rate)
        kept = Rate(limit, limit / self.rate, 1.0, UNIT)
        if self.window is None:
            self.window = Window(kept)
        else:
            self.window.retune(kept, now)

    def _average(self, since: float, now: float) -> float:
        first_at, before = self._mark(since)
        return (self._passed - before) / max(now - first_at, _MARK_S)

    def _mark(self, since: float) -> tuple[float, float]:
        for mark in self._marks:
            if mark[0] >= since:
                return mark
        return self._marks[-1] if self._marks else (inf, 0.0)
