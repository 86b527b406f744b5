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
from paceline.rate.usage import UsageCounters
from paceline.rate.window import HoldMemo, RateWindow

_MAX_WINDOWS = 16
_DEFAULT_RESET_S = 1.0
"""How long a `remaining` without a reset or a length is believed."""
_INTERACTIVE_RESERVE = 0.1


class HeaderWindow:
    """One window as told last."""

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
        """From the last answer that told it to the reset: where no length is told, the next reset is as far."""
        self.reset_capped = False
        """The reset is further away than anybody may be held: what is there before it has to be tried."""
        self.probing = False
        """One call may go whatever is left, to hear how it stands."""
        self.refill_per_s = 0.0
        self.written_baseline = 0.0
        """What had been written, in all, when the request that told it was."""
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
        """At the reset the limit is there again; what is in flight may be counted in the new window."""
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
        """A further answer told of it."""
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
        """When this much may be granted and `kept` be left; in the past where it may be now."""
        self.refill(usage, now)
        shortfall = (min(cost, 1.0) if self.probing else cost) + reserve - self.usable(usage, now)
        if shortfall <= 1e-9:
            return -inf
        if self.refill_per_s > 0:
            return min(self.reset_at, now + shortfall / self.refill_per_s)
        return self.reset_at


class HeaderLimits:
    """All that one budget was told."""

    __slots__ = ("_counted_windows", "_header_windows", "last_info", "max_wait_s")

    def __init__(self, max_wait_s: float = inf) -> None:
        self.max_wait_s = max_wait_s
        """Nothing that is told may hold a budget for longer."""
        self._header_windows: dict[str, HeaderWindow] = {}
        self._counted_windows: dict[str, RateWindow] = {}
        self.last_info: RateInfo | None = None

    def copy(self, memo: HoldMemo) -> HeaderLimits:
        """A copy to be run ahead of time by itself; see `Window.fork`."""
        clone = copy(self)
        clone._header_windows = {key: copy(header_window) for key, header_window in self._header_windows.items()}
        clone._counted_windows = {key: window.copy(memo) for key, window in self._counted_windows.items()}
        return clone

    def __bool__(self) -> bool:
        return bool(self._header_windows)

    def apply(
        self, info: RateInfo, usage: UsageCounters, written_at: float, written_totals: Mapping[str, float], now: float
    ) -> list[RateWindow]:
        """Take an answer to a request written at `written_at`; windows that are new are returned.

        `marks` is what had been written in all, by unit, that request included.
        """
        self.last_info = info
        new: list[RateWindow] = []
        for window_info in info.windows:
            key = "/".join(part for part in (info.bucket, window_info.name, window_info.partition) if part)
            header_window = self._header_windows.get(key)
            if header_window is None or header_window.unit != window_info.unit:
                if len(self._header_windows) >= _MAX_WINDOWS:
                    self._evict_oldest()
                header_window = self._header_windows[key] = HeaderWindow(window_info.unit)
                usage.advertised_units = frozenset(each.unit for each in self._header_windows.values())
            header_window.update(
                window_info, usage, written_at, written_totals.get(header_window.unit, 0.0), now, self.max_wait_s
            )
            window = self._update_counted_window(key, header_window, now)
            if window is not None:
                new.append(window)
        return new

    def due_at(
        self, cost: Cost, priority: Priority, queued_amounts: Mapping[str, float], usage: UsageCounters, now: float
    ) -> float:
        """When this cost may be granted at the earliest."""
        due_at = -inf
        for header_window in self._header_windows.values():
            amount = cost.get(header_window.unit)
            if amount:
                reserve = 0.0
                if header_window.limit is not None:
                    amount = min(amount, header_window.limit)  # what is told may be wrong: nobody waits for ever
                    scarce = queued_amounts.get(header_window.unit, 0.0) > header_window.usable(usage, now)
                    if scarce and priority is not Priority.INTERACTIVE and not header_window.reset_capped:
                        reserve = min(_INTERACTIVE_RESERVE * header_window.limit, header_window.limit - amount)
                due_at = max(due_at, header_window.due_at(amount, reserve, usage, now))
        return due_at

    def uses_interactive_reserve(self, cost: Cost, usage: UsageCounters, now: float) -> bool:
        """Whether this cost would come out of what is kept for `interactive` where more is queued."""
        return any(
            header_window.limit is not None
            and (amount := cost.get(header_window.unit, 0.0)) > 0
            and header_window.usable(usage, now) - amount < _INTERACTIVE_RESERVE * header_window.limit
            for header_window in self._header_windows.values()
        )

    @property
    def has_limit(self) -> bool:
        """Whether any limit is known: with what remains of it, or with its length."""
        return bool(self._header_windows) and any(
            header_window.limit is not None and (header_window.per_s is not None or header_window.remaining < inf)
            for header_window in self._header_windows.values()
        )

    @property
    def counted_windows(self) -> list[RateWindow]:
        """Limits told with their length, kept by our own count."""
        return list(self._counted_windows.values())

    def iter_remaining(
        self, usage: UsageCounters, now: float, transit_s: float
    ) -> Iterator[tuple[HeaderWindow, float]]:
        """Each window of which it is known what is usable: as told, or by our own count."""
        for key, header_window in self._header_windows.items():
            header_window.refill(usage, now)
            usable = header_window.usable(usage, now)
            window = self._counted_windows.get(key)
            if window is not None:
                usable = min(usable, window.remaining(now, transit_s))
            if usable < inf:
                yield header_window, max(0.0, usable)

    def _update_counted_window(self, key: str, header_window: HeaderWindow, now: float) -> RateWindow | None:
        if (
            header_window.limit is None
            or header_window.per_s is None
            or header_window.limit < 1
            or header_window.per_s > self.max_wait_s
        ):
            return None
        rate = Rate(header_window.limit, header_window.per_s, header_window.limit, header_window.unit)
        window = self._counted_windows.get(key)
        if window is None or window.rate.per_s != rate.per_s or window.rate.unit != rate.unit:
            window = self._counted_windows[key] = RateWindow(rate)
            return window
        if window.rate.limit != rate.limit:
            window.retune(rate, now)
        return None

    def _evict_oldest(self) -> None:
        oldest = min(self._header_windows, key=lambda key: self._header_windows[key].written_at)
        del self._header_windows[oldest]
        self._counted_windows.pop(oldest, None)
