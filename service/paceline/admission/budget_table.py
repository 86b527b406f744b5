"""The budgets of one upstream by partition key, and what was declared for all of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from copy import copy
from math import inf

from paceline.admission.budget import Budget
from paceline.admission.copy_memo import CopyMemo
from paceline.admission.lane_queue import Waiter
from paceline.admission.permit_pool import PermitPool
from paceline.model import Cost, Rate
from paceline.units import format_seconds

DEFAULT_KEY = "upstream"
"""The partition key where nothing is partitioned."""

_MAX_BUDGETS = 10_000
_EVICTION_RETRY_S = 1.0
"""A search among all of them takes some 40 ms: with none to drop, it is not made anew for everybody who asks."""


class BudgetTable:
    """At most 10,000 of them; beyond, one is dropped whose windows are all free and where nobody waits or flies."""

    __slots__ = ("_by_key", "_max_pause_s", "_next_eviction_at", "_transit_s", "rates")

    def __init__(self, rates: Sequence[Rate], transit_s: float, max_pause_s: float) -> None:
        self.rates = tuple(rates)
        """The windows as declared or last retuned."""
        self._transit_s, self._max_pause_s = transit_s, max_pause_s
        self._by_key: OrderedDict[str, Budget] = OrderedDict()
        self._next_eviction_at = -inf

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Budget]:
        """Those known now."""
        return iter(self._by_key.values())

    def snapshot(self) -> list[Budget]:
        """Those known now; where there is none yet, what the first would be."""
        return list(self) or [Budget(DEFAULT_KEY, self.rates, self._transit_s, self._max_pause_s)]

    def get_or_create(self, key: str, now: float) -> Budget:
        """The budget of a partition key, made when first asked for.

        Raises:
            LookupError: so many are known and busy that none can be dropped.
        """
        budget = self._by_key.get(key)
        if budget is None:
            if len(self._by_key) >= _MAX_BUDGETS:
                self._evict_idle(now)
            budget = self._by_key[key] = Budget(key, self.rates, self._transit_s, self._max_pause_s)
        elif len(self._by_key) > 1:
            self._by_key.move_to_end(key)
        return budget

    def iter_waiters(self) -> Iterator[Waiter]:
        """Everybody who waits, parked or not."""
        for budget in self:
            for lane_queue in budget.lane_queues:
                for flow in lane_queue.flows:
                    yield from flow.waiters

    def unpayable_reason(self, cost: Cost, batch_pool: PermitPool | None) -> str | None:
        """Why a cost can never be paid, or None."""
        rates = self.rates if batch_pool is None or batch_pool.rate is None else (*self.rates, batch_pool.rate)
        for rate in rates:
            if cost.get(rate.unit, 0.0) > rate.limit:
                return (
                    f"cost {cost[rate.unit]:g} {rate.unit} is above the window's limit of {rate.limit:g} "
                    f"per {format_seconds(rate.per_s)}: it can never be paid; split the request or raise the limit"
                )
        return None

    def retune(self, rates: Sequence[Rate], now: float) -> None:
        """Change the windows and keep what was counted."""
        self.rates = tuple(rates)
        for budget in self:
            budget.retune(rates, now)

    def set_declared_times(self, transit_s: float, max_pause_s: float) -> None:
        """Change what the operator declared beside the windows; what was learned stays."""
        self._transit_s, self._max_pause_s = transit_s, max_pause_s
        for budget in self:
            budget.set_declared_times(transit_s, max_pause_s)

    def reset_learned(self) -> None:
        """Back to the configuration. Counted sends stay counted."""
        for budget in self:
            budget.reset_learned()

    @property
    def paused_until(self) -> float:
        """When the last throttle pause ends; in the past where none stands."""
        return max((budget.throttle_pause.paused_until for budget in self), default=-inf)

    @property
    def transit_s(self) -> float:
        """The longest a request is taken to need to be counted."""
        return max((budget.transit_s for budget in self), default=self._transit_s)

    def is_idle(self, now: float, max_window_s: float) -> bool:
        """Nobody waits or is in flight, no pause stands, and every window of at most `longest_s` is free."""
        return all(budget.is_idle(now, max_window_s) for budget in self)

    def copy(self, memo: CopyMemo, keys: Collection[str]) -> BudgetTable:
        """A copy with those of `keys` and those where anybody waits or flies; see `Gate.fork`."""
        clone = copy(self)
        clone._by_key = OrderedDict()
        for key, budget in self._by_key.items():
            if key in keys or budget.unsettled_grants or any(lane_queue.flows for lane_queue in budget.lane_queues):
                clone._by_key[key] = budget.copy(memo)
        return clone

    def _evict_idle(self, now: float) -> None:
        if now >= self._next_eviction_at:
            for _ in range(len(self._by_key)):
                key, budget = next(iter(self._by_key.items()))
                if budget.is_idle(now, inf):
                    budget.is_evicted = True
                    del self._by_key[key]
                    return
                self._by_key.move_to_end(key)  # so that nobody looks at it again before all others
            self._next_eviction_at = now + _EVICTION_RETRY_S
        raise LookupError(f"{_MAX_BUDGETS} partitions are busy")
