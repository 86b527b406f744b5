"""The state of the upstreams by metric label: the values of the gauges, read at each scrape only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from msgspec import Struct, field

BREAKER_STATES = ("closed", "open", "half_open")


class WindowGauges(Protocol):
    """One rate window of a budget."""

    @property
    def limit(self) -> float: ...
    @property
    def per(self) -> str | None: ...
    @property
    def remaining(self) -> float: ...
    @property
    def source(self) -> str: ...


class BudgetGauges(Protocol):
    """One budget of an upstream."""

    @property
    def rate_limit_per_second(self) -> float | None: ...
    @property
    def paused_for_ms(self) -> float: ...
    @property
    def windows(self) -> Sequence[WindowGauges]: ...


class UpstreamGauges(Protocol):
    """One upstream's live state, as `paceline.upstream.snapshot` returns it."""

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
    def budgets(self) -> Sequence[BudgetGauges]: ...


ReadUpstreams = Callable[[], Iterable[UpstreamGauges]]
"""Called at each scrape."""


class GaugeSnapshot(Struct):
    """Gauge values by label values."""

    in_flight: dict[tuple[str, ...], float] = field(default_factory=dict)
    queued: dict[tuple[str, ...], float] = field(default_factory=dict)
    concurrency_limit: dict[tuple[str, ...], float] = field(default_factory=dict)
    rate_limit_per_second: dict[tuple[str, ...], float] = field(default_factory=dict)
    rate_remaining: dict[tuple[str, ...], float] = field(default_factory=dict)
    budget_paused: dict[tuple[str, ...], float] = field(default_factory=dict)
    breaker_state: dict[tuple[str, ...], float] = field(default_factory=dict)
    retry_budget_remaining: dict[tuple[str, ...], float] = field(default_factory=dict)


def read_gauges(upstreams: Iterable[UpstreamGauges]) -> GaugeSnapshot:
    """Read the states; those of one name (undeclared hosts) are added up, and of what remains the least counts."""
    snapshot = GaugeSnapshot()
    for upstream in upstreams:
        key = (upstream.name,)
        _add_to(snapshot.in_flight, key, upstream.in_flight)
        _add_to(snapshot.queued, key, upstream.queued)
        _add_to(snapshot.concurrency_limit, key, upstream.concurrency_limit)
        paused = upstream.paused
        for budget in upstream.budgets:
            paused = paused or budget.paused_for_ms > 0
            if budget.rate_limit_per_second is not None:
                _add_to(snapshot.rate_limit_per_second, key, budget.rate_limit_per_second)
            for window in budget.windows:
                labels = (upstream.name, window_label(window))
                known = snapshot.rate_remaining.get(labels, window.remaining)
                snapshot.rate_remaining[labels] = min(known, window.remaining)
        for breaker in BREAKER_STATES:
            _add_to(snapshot.breaker_state, (upstream.name, breaker), float(upstream.breaker == breaker))
        least_remaining = snapshot.retry_budget_remaining.get(key, upstream.retry_budget_remaining)
        snapshot.retry_budget_remaining[key] = min(least_remaining, upstream.retry_budget_remaining)
        snapshot.budget_paused[key] = max(snapshot.budget_paused.get(key, 0), float(paused))
    return snapshot


def window_label(window: WindowGauges) -> str:
    """`limit/per` of a declared window (`80/1m`); `header` or `learned` for the others."""
    return f"{window.limit:.15g}/{window.per}" if window.source == "declared" else window.source


def _add_to(values: dict[tuple[str, ...], float], key: tuple[str, ...], amount: float) -> None:
    values[key] = values.get(key, 0) + amount
