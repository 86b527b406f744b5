"""The limits that an upstream's rate headers advertise, kept between responses; they bind one budget's adaptive lane.

Rules:

* usable is `remaining` less what was written after the request whose response advertised it, and less what is granted
  but not yet written; an older response never raises it;
* a reset in whole seconds may be up to a second later; at the reset the whole limit is available again, less what is in
  flight; where it refills steadily, what was refilled in the meantime counts;
* while usable covers everything in the queue it is spent freely; otherwise a tenth of the limit is reserved for
  `interactive` until the reset;
* a limit advertised with its length is also counted as a window of our own, which is kept between responses.

Pure: moments are arguments (`time.perf_counter()` seconds).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from math import inf

from paceline.model import Cost, Priority, Rate
from paceline.rate.header_window import HeaderWindow
from paceline.rate.rate_info import RateInfo
from paceline.rate.usage import UsageCounters
from paceline.rate.window import CopyMemo, RateWindow

_MAX_WINDOWS = 16
_INTERACTIVE_RESERVE = 0.1


class HeaderLimits:
    """Every window that one budget's responses advertised."""

    __slots__ = ("_counted_windows", "_header_windows", "last_info", "max_wait_s")

    def __init__(self, max_wait_s: float = inf) -> None:
        self.max_wait_s = max_wait_s
        """Seconds that an advertised limit may block the budget at most."""
        self._header_windows: dict[str, HeaderWindow] = {}
        self._counted_windows: dict[str, RateWindow] = {}
        self.last_info: RateInfo | None = None

    def copy(self, memo: CopyMemo) -> HeaderLimits:
        """Copy what the headers advertised, for a simulation."""
        clone = copy(self)
        clone._header_windows = {key: copy(header_window) for key, header_window in self._header_windows.items()}
        clone._counted_windows = {key: window.copy(memo) for key, window in self._counted_windows.items()}
        return clone

    def __bool__(self) -> bool:
        return bool(self._header_windows)

    def apply(
        self, info: RateInfo, usage: UsageCounters, written_at: float, written_totals: Mapping[str, float], now: float
    ) -> list[RateWindow]:
        """Apply a response to the request that was written at `written_at`; return the windows that are new.

        `written_totals` is what had been written in total, by unit, including that request.
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
        """The earliest moment at which this cost may be granted."""
        due_at = -inf
        for header_window in self._header_windows.values():
            amount = cost.get(header_window.unit)
            if amount:
                reserve = 0.0
                if header_window.limit is not None:
                    amount = min(amount, header_window.limit)  # the header may be wrong: no request waits for ever
                    scarce = queued_amounts.get(header_window.unit, 0.0) > header_window.usable(usage, now)
                    if scarce and priority is not Priority.INTERACTIVE and not header_window.reset_capped:
                        reserve = min(_INTERACTIVE_RESERVE * header_window.limit, header_window.limit - amount)
                due_at = max(due_at, header_window.due_at(amount, reserve, usage, now))
        return due_at

    def uses_interactive_reserve(self, cost: Cost, usage: UsageCounters, now: float) -> bool:
        """Whether this cost would use the reserve for `interactive` while the queue needs more than is usable."""
        return any(
            header_window.limit is not None
            and (amount := cost.get(header_window.unit, 0.0)) > 0
            and header_window.usable(usage, now) - amount < _INTERACTIVE_RESERVE * header_window.limit
            for header_window in self._header_windows.values()
        )

    @property
    def has_limit(self) -> bool:
        """Whether any limit is known, with what remains of it or with its length."""
        return bool(self._header_windows) and any(
            header_window.limit is not None and (header_window.per_s is not None or header_window.remaining < inf)
            for header_window in self._header_windows.values()
        )

    @property
    def counted_windows(self) -> list[RateWindow]:
        """Limits advertised with their length, as windows of our own count."""
        return list(self._counted_windows.values())

    def iter_remaining(
        self, usage: UsageCounters, now: float, transit_s: float
    ) -> Iterator[tuple[HeaderWindow, float]]:
        """Each window whose usable units are known, by its header or by our own count."""
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
