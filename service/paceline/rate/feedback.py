"""What an upstream's rate headers allow, kept between answers; binds the adaptive lane of one budget.

Rules:

* usable is `remaining` less what was written after the request whose answer told it, and less what is granted but not
  yet written; an older answer never raises it;
* a reset told in whole seconds may be a second later; at the reset the whole limit is there again, less what is in
  flight; where it refills steadily, what came back meanwhile counts;
* while usable covers all that is queued it is spent freely; when it does not, a tenth of the limit is kept for
  `interactive` until the reset;
* a limit told with its length is also kept as a window of our own count, never forgotten between answers.

Pure: moments are arguments (`time.perf_counter()` seconds).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from math import inf

from paceline.model import Cost, Priority, Rate
from paceline.rate.rate_info import RateInfo, RateWindowInfo
from paceline.rate.spending import Spending
from paceline.rate.window import Holds, Window

_MOST_WINDOWS = 16
_UNTOLD_RESET_S = 1.0
"""How long a `remaining` without a reset or a length is believed."""
_KEPT = 0.1


class Told:
    """One window as told last."""

    __slots__ = ("ceiling_s", "cut", "fill_per_s", "interval_s", "known_at", "limit", "mark", "per_s", "remaining",
                 "reset_at", "trying", "unit", "written_at")  # fmt: skip

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.ceiling_s = inf
        self.limit: float | None = None
        self.per_s: float | None = None
        self.remaining: float = inf
        self.reset_at = inf
        self.interval_s = _UNTOLD_RESET_S
        """From the last answer that told it to the reset: where no length is told, the next reset is as far."""
        self.cut = False
        """The reset is further away than anybody may be held: what is there before it has to be tried."""
        self.trying = False
        """One call may go whatever is left, to hear how it stands."""
        self.fill_per_s = 0.0
        self.mark = 0.0
        """What had been written, in all, when the request that told it was."""
        self.known_at = self.written_at = -inf

    def usable(self, spending: Spending, now: float) -> float:
        """Units that may still be granted."""
        if self.remaining == inf:
            return inf
        spent = max(0.0, spending.written.get(self.unit, 0.0) - self.mark) + spending.unwritten.get(self.unit, 0.0)
        refilled = max(0.0, now - self.known_at) * self.fill_per_s
        return min(self.remaining + refilled, self.limit or inf) - spent

    def refill(self, spending: Spending, now: float) -> None:
        """At the reset the limit is there again; what is in flight may be counted in the new window."""
        if now < self.reset_at:
            return
        if self.cut and self.usable(spending, now) >= 1:
            self.reset_at = now + self.ceiling_s
            return
        self.trying = self.cut
        self.remaining = 1.0 if self.cut else inf if self.limit is None else self.limit
        self.mark = spending.written.get(self.unit, 0.0) - spending.in_flight.get(self.unit, 0.0)
        self.known_at, self.fill_per_s = now, 0.0
        self._reset_in(inf if self.remaining == inf else self.per_s or self.interval_s, now)

    def _reset_in(self, after_s: float, now: float) -> None:
        self.cut = self.ceiling_s < after_s < inf
        self.reset_at = now + (self.ceiling_s if self.cut else after_s)

    def take(
        self, info: RateWindowInfo, spending: Spending, written_at: float, mark: float, now: float, ceiling_s: float
    ) -> None:
        """A further answer told of it."""
        self.limit = info.limit if info.limit is not None else self.limit
        self.per_s = info.per_s if info.per_s is not None else self.per_s
        self.ceiling_s = ceiling_s
        if info.remaining is None:
            return
        before = (self.remaining, self.mark, self.known_at, self.reset_at, self.fill_per_s, self.cut, self.trying)
        usable = self.usable(spending, now)
        after_s = info.reset_after_s
        self.remaining, self.mark, self.known_at = info.remaining, mark, now
        self.fill_per_s, self.trying = 0.0, False
        if after_s is None:
            after_s = self.per_s or _UNTOLD_RESET_S
        else:
            after_s += 1.0 if info.whole_seconds else 0.0
            if info.refills and self.limit is not None and after_s > 0:
                self.fill_per_s = max(0.0, self.limit - info.remaining) / after_s
        self._reset_in(after_s, now)
        self.interval_s = max(_UNTOLD_RESET_S, after_s)
        if written_at < self.written_at and self.usable(spending, now) > usable:
            (self.remaining, self.mark, self.known_at, self.reset_at, self.fill_per_s, self.cut, self.trying) = before
        self.written_at = max(self.written_at, written_at)

    def due(self, cost: float, kept: float, spending: Spending, now: float) -> float:
        """When this much may be granted and `kept` be left; in the past where it may be now."""
        self.refill(spending, now)
        short = (min(cost, 1.0) if self.trying else cost) + kept - self.usable(spending, now)
        if short <= 1e-9:
            return -inf
        if self.fill_per_s > 0:
            return min(self.reset_at, now + short / self.fill_per_s)
        return self.reset_at


class Feedback:
    """All that one budget was told."""

    __slots__ = ("_told", "_windows", "ceiling_s", "last")

    def __init__(self, ceiling_s: float = inf) -> None:
        self.ceiling_s = ceiling_s
        """Nothing that is told may hold a budget for longer."""
        self._told: dict[str, Told] = {}
        self._windows: dict[str, Window] = {}
        self.last: RateInfo | None = None

    def fork(self, holds: Holds) -> Feedback:
        """A copy to be run ahead of time by itself; see `Window.fork`."""
        fork = copy(self)
        fork._told = {key: copy(told) for key, told in self._told.items()}
        fork._windows = {key: window.fork(holds) for key, window in self._windows.items()}
        return fork

    def __bool__(self) -> bool:
        return bool(self._told)

    def read(
        self, info: RateInfo, spending: Spending, written_at: float, marks: Mapping[str, float], now: float
    ) -> list[Window]:
        """Take an answer to a request written at `written_at`; windows that are new are returned.

        `marks` is what had been written in all, by unit, that request included.
        """
        self.last = info
        new: list[Window] = []
        for told_now in info.windows:
            key = "/".join(part for part in (info.bucket, told_now.name, told_now.partition) if part)
            told = self._told.get(key)
            if told is None or told.unit != told_now.unit:
                if len(self._told) >= _MOST_WINDOWS:
                    self._forget_one()
                told = self._told[key] = Told(told_now.unit)
                spending.told = frozenset(each.unit for each in self._told.values())
            told.take(told_now, spending, written_at, marks.get(told.unit, 0.0), now, self.ceiling_s)
            window = self._keep_window(key, told, now)
            if window is not None:
                new.append(window)
        return new

    def due(self, cost: Cost, priority: Priority, queued: Mapping[str, float], spending: Spending, now: float) -> float:
        """When this cost may be granted at the earliest."""
        due = -inf
        for told in self._told.values():
            amount = cost.get(told.unit)
            if amount:
                kept = 0.0
                if told.limit is not None:
                    amount = min(amount, told.limit)  # what is told may be wrong: nobody waits for ever
                    scarce = queued.get(told.unit, 0.0) > told.usable(spending, now)
                    if scarce and priority is not Priority.INTERACTIVE and not told.cut:
                        kept = min(_KEPT * told.limit, told.limit - amount)
                due = max(due, told.due(amount, kept, spending, now))
        return due

    def spends_the_kept(self, cost: Cost, spending: Spending, now: float) -> bool:
        """Whether this cost would come out of what is kept for `interactive` where more is queued."""
        return any(
            told.limit is not None
            and (amount := cost.get(told.unit, 0.0)) > 0
            and told.usable(spending, now) - amount < _KEPT * told.limit
            for told in self._told.values()
        )

    @property
    def limits(self) -> bool:
        """Whether any limit is known: with what remains of it, or with its length."""
        return bool(self._told) and any(
            told.limit is not None and (told.per_s is not None or told.remaining < inf) for told in self._told.values()
        )

    @property
    def windows(self) -> list[Window]:
        """Limits told with their length, kept by our own count."""
        return list(self._windows.values())

    def remaining(self, spending: Spending, now: float, transit_s: float) -> Iterator[tuple[Told, float]]:
        """Each window of which it is known what is usable: as told, or by our own count."""
        for key, told in self._told.items():
            told.refill(spending, now)
            usable = told.usable(spending, now)
            window = self._windows.get(key)
            if window is not None:
                usable = min(usable, window.remaining(now, transit_s))
            if usable < inf:
                yield told, max(0.0, usable)

    def _keep_window(self, key: str, told: Told, now: float) -> Window | None:
        if told.limit is None or told.per_s is None or told.limit < 1 or told.per_s > self.ceiling_s:
            return None
        rate = Rate(told.limit, told.per_s, told.limit, told.unit)
        window = self._windows.get(key)
        if window is None or window.rate.per_s != rate.per_s or window.rate.unit != rate.unit:
            window = self._windows[key] = Window(rate)
            return window
        if window.rate.limit != rate.limit:
            window.retune(rate, now)
        return None

    def _forget_one(self) -> None:
        first = min(self._told, key=lambda key: self._told[key].written_at)
        del self._told[first]
        self._windows.pop(first, None)
