"""How the upstreams stand, by metric label: what the gauges show, read when somebody asks and never before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from msgspec import Struct, field

BREAKER_STATES = ("closed", "open", "half_open")


class WindowLevel(Protocol):
    """One rate window of a budget."""

    @property
    def limit(self) -> float: ...
    @property
    def per(self) -> str | None: ...
    @property
    def remaining(self) -> float: ...
    @property
    def source(self) -> str: ...


class BudgetLevel(Protocol):
    """One budget of an upstream."""

    @property
    def rate_limit_per_second(self) -> float | None: ...
    @property
    def paused_for_ms(self) -> float: ...
    @property
    def windows(self) -> Sequence[WindowLevel]: ...


class UpstreamLevel(Protocol):
    """One upstream's live state, as `paceline.upstream.state` gives it."""

    @property
    def name(self) -> str: ...
    @property
    def paused(self) -> bool: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def queued(self) -> int: ...
    @property
    def concurrency_limit(self) -> int: ...
    @property
    def breaker(self) -> str: ...
    @property
    def retry_budget_remaining(self) -> float: ...
    @property
    def budgets(self) -> Sequence[BudgetLevel]: ...


States = Callable[[], Iterable[UpstreamLevel]]
"""Asked at each scrape."""


class Levels(Struct):
    """Gauge values by label values."""

    in_flight: dict[tuple[str, ...], float] = field(default_factory=dict)
    queued: dict[tuple[str, ...], float] = field(default_factory=dict)
    concurrency_limit: dict[tuple[str, ...], float] = field(default_factory=dict)
    rate_limit_per_second: dict[tuple[str, ...], float] = field(default_factory=dict)
    rate_remaining: dict[tuple[str, ...], float] = field(default_factory=dict)
    budget_paused: dict[tuple[str, ...], float] = field(default_factory=dict)
    breaker_state: dict[tuple[str, ...], float] = field(default_factory=dict)
    retry_budget_remaining: dict[tuple[str, ...], float] = field(default_factory=dict)


def levels(states: Iterable[UpstreamLevel]) -> Levels:
    """Read the states; those of one name (undeclared hosts) are added up, of what remains the least is shown."""
    read = Levels()
    for state in states:
        key = (state.name,)
        _add(read.in_flight, key, state.in_flight)
        _add(read.queued, key, state.queued)
        _add(read.concurrency_limit, key, state.concurrency_limit)
        paused = state.paused
        for budget in state.budgets:
            paused = paused or budget.paused_for_ms > 0
            if budget.rate_limit_per_second is not None:
                _add(read.rate_limit_per_second, key, budget.rate_limit_per_second)
            for window in budget.windows:
                labels = (state.name, window_label(window))
                known = read.rate_remaining.get(labels, window.remaining)
                read.rate_remaining[labels] = min(known, window.remaining)
        for breaker in BREAKER_STATES:
            _add(read.breaker_state, (state.name, breaker), float(state.breaker == breaker))
        left = read.retry_budget_remaining.get(key, state.retry_budget_remaining)
        read.retry_budget_remaining[key] = min(left, state.retry_budget_remaining)
        read.budget_paused[key] = max(read.budget_paused.get(key, 0), float(paused))
    return read


def window_label(window: WindowLevel) -> str:
    """`limit/per` of a declared window (`80/1m`); `header` or `learned` for the others."""
    return f"{window.limit:.15g}/{window.per}" if window.source == "declared" else window.source


def _add(values: dict[tuple[str, ...], float], key: tuple[str, ...], more: float) -> None:
    values[key] = values.get(key, 0) + more
