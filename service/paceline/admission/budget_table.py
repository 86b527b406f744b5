"""The budgets of one upstream by partition key, the queues before them, and the windows declared for all."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from copy import copy
from math import inf

from paceline.admission.budget import Budget
from paceline.admission.lane_queue import LaneQueue, Waiter, open_lanes
from paceline.admission.permit_pool import PermitPool
from paceline.model import Cost, Rate
from paceline.rate.window import CopyMemo
from paceline.units import format_seconds

DEFAULT_KEY = "upstream"
"""The partition key where nothing is partitioned."""

_MAX_BUDGETS = 10_000
_EVICTION_RETRY_S = 1.0
"""Seconds. A search among all budgets takes some 40 ms: where none can be dropped, the next search waits."""


class BudgetTable:
    """At most 10,000 budgets; beyond, one is dropped that has no waiters, no calls in flight and all windows free."""

    __slots__ = ("_lanes_by_key", "_max_pause_s", "_next_eviction_at", "_transit_s", "rates")

    def __init__(self, rates: Sequence[Rate], transit_s: float, max_pause_s: float) -> None:
        self.rates = tuple(rates)
        """The windows as declared or last retuned."""
        self._transit_s, self._max_pause_s = transit_s, max_pause_s
        self._lanes_by_key: OrderedDict[str, tuple[LaneQueue, ...]] = OrderedDict()
        self._next_eviction_at = -inf

    def __len__(self) -> int:
        return len(self._lanes_by_key)

    def __iter__(self) -> Iterator[Budget]:
        """Iterate over the budgets known now."""
        return (lanes[0].budget for lanes in self._lanes_by_key.values())

    def snapshot(self) -> list[Budget]:
        """Return the budgets known now; where there is none yet, what the first would be."""
        return list(self) or [Budget(DEFAULT_KEY, self.rates, self._transit_s, self._max_pause_s)]

    def get_or_create(self, key: str, now: float) -> tuple[LaneQueue, ...]:
        """Return the queues before the budget of a partition key, by `Lane`; the first call makes them.

        Raises:
            LookupError: the maximum is reached and no budget can be dropped.
        """
        lanes = self._lanes_by_key.get(key)
        if lanes is None:
            if len(self._lanes_by_key) >= _MAX_BUDGETS:
                self._evict_idle(now)
            budget = Budget(key, self.rates, self._transit_s, self._max_pause_s)
            lanes = self._lanes_by_key[key] = open_lanes(budget)
        elif len(self._lanes_by_key) > 1:
            self._lanes_by_key.move_to_end(key)
        return lanes

    def iter_lane_queues(self) -> Iterator[LaneQueue]:
        """Iterate over the queues of both lanes before every budget."""
        for lanes in self._lanes_by_key.values():
            yield from lanes

    def iter_waiters(self) -> Iterator[Waiter]:
        """Iterate over all waiters, parked or not."""
        for lane_queue in self.iter_lane_queues():
            for flow in lane_queue.flows:
                yield from flow.waiters

    def unpayable_reason(self, cost: Cost, batch_pool: PermitPool | None) -> str | None:
        """Return why a cost can never be paid, or None."""
        rates = self.rates if batch_pool is None or batch_pool.rate is None else (*self.rates, batch_pool.rate)
        for rate in rates:
            if cost.get(rate.unit, 0.0) > rate.limit:
                return (
                    f"cost {cost[rate.unit]:g} {rate.unit} is above the window's limit of {rate.limit:g} "
                    f"per {format_seconds(rate.per_s)}: it can never be paid; split the request or raise the limit"
                )
        return None

    def retune(self, rates: Sequence[Rate], now: float) -> None:
        """Change the windows and keep what they counted."""
        self.rates = tuple(rates)
        for budget in self:
            budget.retune(rates, now)

    def set_declared_times(self, transit_s: float, max_pause_s: float) -> None:
        """Change what the operator declared in addition to the windows; what was learned stays."""
        self._transit_s, self._max_pause_s = transit_s, max_pause_s
        for budget in self:
            budget.set_declared_times(transit_s, max_pause_s)

    def reset_learned(self) -> None:
        """Forget what was learned. Counted sends stay counted."""
        for budget in self:
            budget.reset_learned()

    @property
    def paused_until(self) -> float:
        """When the last throttle pause ends; in the past without one."""
        return max((budget.throttle_pause.paused_until for budget in self), default=-inf)

    @property
    def transit_s(self) -> float:
        """The longest time that a request is assumed to need until it is counted."""
        return max((budget.transit_s for budget in self), default=self._transit_s)

    def is_idle(self, now: float, max_window_s: float) -> bool:
        """Whether all budgets are: no waiters, no calls in flight, no pause, windows of up to `max_window_s` free."""
        return all(_is_idle(lanes, now, max_window_s) for lanes in self._lanes_by_key.values())

    def copy(self, memo: CopyMemo, keys: Collection[str]) -> BudgetTable:
        """Copy the budgets of `keys` and those with waiters or calls in flight."""
        clone = copy(self)
        clone._lanes_by_key = OrderedDict()
        for key, lanes in self._lanes_by_key.items():
            if key in keys or lanes[0].budget.unsettled_grants or any(lane_queue.flows for lane_queue in lanes):
                clone._lanes_by_key[key] = lanes[0].copy(memo).lanes
        return clone

    def _evict_idle(self, now: float) -> None:
        if now >= self._next_eviction_at:
            for _ in range(len(self._lanes_by_key)):
                key, lanes = next(iter(self._lanes_by_key.items()))
                if _is_idle(lanes, now, inf):
                    lanes[0].budget.is_evicted = True
                    del self._lanes_by_key[key]
                    return
                self._lanes_by_key.move_to_end(key)  # so that all others are examined before it is again
            self._next_eviction_at = now + _EVICTION_RETRY_S
        raise LookupError(f"{_MAX_BUDGETS} partitions are busy")


def _is_idle(lanes: Sequence[LaneQueue], now: float, max_window_s: float) -> bool:
    return not any(lane_queue.flows for lane_queue in lanes) and lanes[0].budget.is_idle(now, max_window_s)
