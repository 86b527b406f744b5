"""An upstream's live state, as the API shows it and the gauges read it."""

from __future__ import annotations

from msgspec import Struct, structs

from paceline.admission.budget import Budget
from paceline.config import UpstreamConfig
from paceline.rate.rate_info import RateInfo
from paceline.units import format_duration
from paceline.upstream.upstream import Upstream


class WindowState(Struct, frozen=True):
    """One window: tokens that are free now, and where the limit comes from; `per` is None where it was not told."""

    limit: float
    per: str | None
    unit: str
    remaining: float
    source: str = "declared"


class AdvertisedWindowState(Struct, frozen=True):
    """One window as rate headers told it."""

    name: str
    unit: str
    limit: float | None
    remaining: float | None
    reset_after_ms: float | None
    per: str | None


class RateInfoState(Struct, frozen=True):
    """What rate headers told last, the dialect that read it, and whether a wait was cut to `max_pause`."""

    dialect: str
    retry_after_ms: float | None
    windows: list[AdvertisedWindowState]
    clamped: bool


class BudgetState(Struct, frozen=True):
    """One budget's windows and pause; `last_rate_info` is what rate headers said last."""

    key: str
    rate_limit_per_second: float | None
    paused_for_ms: float
    windows: list[WindowState]
    last_rate_info: RateInfoState | None = None


class UpstreamState(Struct, frozen=True):
    """One upstream as it stands."""

    name: str
    base_url: str | None
    engine: str
    paused: bool
    in_flight: int
    queued: int
    concurrency_limit: int
    budgets: list[BudgetState]
    breaker: str = "closed"


class UpstreamSnapshot(UpstreamState, frozen=True):
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
    return UpstreamSnapshot(
        **structs.asdict(state_of(upstream, now)), retry_budget_remaining=upstream.retry_budget.remaining(now)
    )


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
