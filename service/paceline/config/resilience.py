"""How failures of an upstream are handled: retries, the circuit breaker, timeouts."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

from paceline.config.section import ConfigSection
from paceline.config.value_types import (
    ErrorStatus,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    PositiveSeconds,
    Ratio,
)
from paceline.model.retried_statuses import TRANSIENT_STATUSES, format_statuses


class RetryConfig(ConfigSection):
    """How often and how long apart an item is tried again."""

    attempts: PositiveInt = 3
    """Attempts in all; 1 means never again, not even after a throttle."""
    throttles: NonNegativeInt = 10
    """How many refusals for rate are waited out besides."""
    base: PositiveSeconds = 0.1
    """The first backoff's upper bound; it doubles, and full jitter picks a moment within it."""
    cap: PositiveSeconds = 20.0
    """The longest backoff of our own; a longer Retry-After is still obeyed."""
    budget_ratio: Ratio = 0.2
    """Retries for each first send of the last ten seconds, per upstream."""
    budget_per_s: NonNegativeFloat = 3.0
    """Retries a second besides."""
    statuses: frozenset[ErrorStatus] = Field(
        default=frozenset(), description=f"Further statuses to try again, beside {format_statuses(TRANSIENT_STATUSES)}."
    )

    @field_validator("cap")
    @classmethod
    def _cap_not_below_base(cls, cap: float, info: ValidationInfo) -> float:
        if cap < info.data.get("base", 0):
            raise ValueError("must not be shorter than base; raise cap or lower base")
        return cap


class BreakerConfig(ConfigSection):
    """When calls to a failing upstream stop, and how its recovery is looked for; binds `adaptive`."""

    ratio: Ratio = 0.5
    """It opens when this share of the calls of the last `window` failed."""
    min_calls: PositiveInt = 20
    """And there were so many at least."""
    window: PositiveSeconds = 10.0
    """How far back calls count."""
    open: PositiveSeconds = 1.0
    """The first rest; it doubles with each trial that fails."""
    max_open: PositiveSeconds = Field(default=5.0, validate_default=True)
    """The longest rest between two trials."""
    trials: PositiveInt = 3
    """The most trials that are unanswered at once."""

    @field_validator("max_open")
    @classmethod
    def _max_not_below_open(cls, max_open: float, info: ValidationInfo) -> float:
        if max_open < info.data.get("open", 0):
            raise ValueError("must not be shorter than open; raise max_open or lower open")
        return max_open


class TimeoutConfig(ConfigSection):
    """How long each step may take."""

    dns: PositiveSeconds = 2.0
    """Looking up the host."""
    connect: PositiveSeconds = 3.0
    """Connecting, with TLS."""
    attempt: PositiveSeconds = 10.0
    """One attempt, up to the last byte of its answer."""
    item: PositiveSeconds = 30.0
    """An item's time in flight and in backoff, over all its attempts."""
