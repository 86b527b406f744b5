"""An upstream's live state, as the API shows it and the gauges read it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pydantic import with_config

from paceline.admission.budget import Budget
from paceline.config import UpstreamConfig
from paceline.rate.rate_info import RateInfo
from paceline.units import format_duration
from paceline.upstream.upstream import Upstream


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class WindowState:
    """One window of a budget."""

    limit: int | float
    """Units that the window allows in a period; for a learned window, in a second."""
    per: str | None
    """Length of the period, such as `1m`; null if the headers that advertised the limit do not say it."""
    unit: str
    """What the window counts: `requests`, or a unit of the items' `cost` such as `tokens`."""
    remaining: int | float
    """Units that are free now."""
    source: str = "declared"
    """Where the limit comes from: `declared` in the configuration, `header` for rate headers, or `learned`."""


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class AdvertisedWindowState:
    """One window as rate headers advertised it."""

    name: str
    """Name of the window."""
    unit: str
    """What the window counts."""
    limit: float | None
    """Units that the window allows in a period; null if the headers do not say it."""
    remaining: float | None
    """Units that remained when the headers were written; null if they do not say it."""
    reset_after_ms: float | None
    """Milliseconds from the headers to the reset of the window; null if they do not say it."""
    per: str | None
    """Length of the period, such as `1m`; null if the headers do not say it."""


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class RateInfoState:
    """What the last rate headers of a budget advertised."""

    dialect: str
    """Dialect that the headers are written in."""
    retry_after_ms: float | None
    """Milliseconds to wait before the next request; null if the headers do not ask for a wait."""
    windows: list[AdvertisedWindowState]
    """The advertised windows."""
    clamped: bool
    """Whether the headers asked for a wait longer than `max_pause` of the upstream, which was cut to it."""


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class BudgetState:
    """One budget of an upstream: its windows and its pause."""

    key: str
    """Key of the partition that the budget counts; `upstream` if the upstream has one budget."""
    rate_limit_per_second: float | None
    """Requests a second that the tightest window allows; null if no window limits requests."""
    paused_for_ms: float
    """Milliseconds for which a throttled response still pauses the budget."""
    windows: list[WindowState]
    """The windows: declared, advertised and learned."""
    last_rate_info: RateInfoState | None = None
    """What the last rate headers advertised; null if no response had any."""


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class UpstreamState:
    """The live state of one upstream."""

    name: str
    """Name of the upstream; `other` for hosts that are not declared."""
    base_url: str | None
    """URL that paths are resolved against."""
    engine: str
    """HTTP library that sends the requests."""
    paused: bool
    """Whether an operator paused the upstream."""
    in_flight: int
    """Calls in flight."""
    queued: int
    """Items that wait to be sent."""
    concurrency_limit: int
    """Maximum number of calls in flight at present."""
    budgets: list[BudgetState]
    """The budgets, one for each partition in use."""
    breaker: str = "closed"
    """State of the circuit breaker: `closed`, `open` or `half_open`."""


@dataclass(frozen=True, slots=True)
class UpstreamSnapshot(UpstreamState):
    """A state with what only the gauges show."""

    retry_budget_remaining: float = 0.0


def state_of(upstream: Upstream, now: float) -> UpstreamState:
    """A snapshot; `now` is `time.perf_counter()`."""
    gate = upstream.async_gate.gate
    return UpstreamState(
        name=upstream.name,
        base_url=upstream.policy.base_url if isinstance(upstream.policy, UpstreamConfig) else None,
        engine=upstream.policy.engine,
        paused=gate.paused,
        in_flight=gate.in_flight,
        queued=gate.queued,
        concurrency_limit=int(min(gate.limit, gate.adaptive_limit)),
        budgets=[_budget_state(budget, now) for budget in gate.budgets.snapshot()],
        breaker="closed" if gate.health is None else gate.health.breaker.state(now).value,
    )


def snapshot_of(upstream: Upstream, now: float) -> UpstreamSnapshot:
    """A snapshot for the gauges."""
    state = state_of(upstream, now)
    shown = {field.name: getattr(state, field.name) for field in fields(state)}
    return UpstreamSnapshot(**shown, retry_budget_remaining=upstream.retry_budget.remaining(now))


def _budget_state(budget: Budget, now: float) -> BudgetState:
    windows = [*budget.windows, *budget.learned_windows]
    rates = [window.rate for window in windows if window.rate.unit == "requests"]
    return BudgetState(
        key=budget.key,
        rate_limit_per_second=min((rate.per_second for rate in rates), default=None),
        paused_for_ms=round(1000 * max(0.0, budget.throttle_pause.blocked_until(now) - now), 3),
        windows=[
            WindowState(
                limit=_int_if_whole(window.rate.limit),
                per=format_duration(window.rate.per_s),
                unit=window.rate.unit,
                remaining=_int_if_whole(window.remaining(now, budget.transit_s)),
            )
            for window in budget.windows
        ]
        + [
            WindowState(
                limit=_int_if_whole(advertised.limit),
                per=None if advertised.per_s is None else format_duration(advertised.per_s),
                unit=advertised.unit,
                remaining=_int_if_whole(usable),
                source="header",
            )
            for advertised, usable in budget.header_limits.iter_remaining(budget.usage, now, budget.transit_s)
            if advertised.limit is not None
        ]
        + _learned_window_states(budget, now),
        last_rate_info=_rate_info_state(budget.header_limits.last_info, budget.header_limits.max_wait_s),
    )


def _learned_window_states(budget: Budget, now: float) -> list[WindowState]:
    """The rate learned without being told, as what it allows in a second."""
    window = budget.learner.window
    if window is None:
        return []
    rate = window.rate
    remaining = min(window.remaining(now, 0.0), rate.per_second)
    return [WindowState(_int_if_whole(round(rate.per_second, 3)), "1s", rate.unit, _int_if_whole(remaining), "learned")]


def _rate_info_state(info: RateInfo | None, ceiling_s: float) -> RateInfoState | None:
    if info is None:
        return None
    waits = [info.retry_after_s, *(window.reset_after_s for window in info.windows)]
    return RateInfoState(
        dialect=info.dialect,
        retry_after_ms=_to_ms(info.retry_after_s),
        windows=[
            AdvertisedWindowState(
                name=window.name,
                unit=window.unit,
                limit=window.limit,
                remaining=window.remaining,
                reset_after_ms=_to_ms(window.reset_after_s),
                per=None if window.per_s is None else format_duration(window.per_s),
            )
            for window in info.windows
        ],
        clamped=info.clamped or any(wait_s is not None and wait_s > ceiling_s for wait_s in waits),
    )


def _to_ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)


def _int_if_whole(number: float) -> float:
    """Whole numbers as whole numbers, so that a limit of 80 reads 80."""
    rounded = round(number, 6)
    return int(rounded) if rounded == int(rounded) else rounded
