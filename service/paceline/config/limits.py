"""The declared limits of an upstream: rate windows, and calls in flight."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator, model_validator

from paceline.config.section import ConfigSection
from paceline.config.value_types import PositiveFloat, PositiveInt, PositiveSeconds
from paceline.model import Rate


class RateWindowConfig(ConfigSection):
    """At most `limit` units in any stretch of `per`."""

    limit: PositiveFloat
    """How many units fit into any stretch of `per`."""
    per: PositiveSeconds
    """The length of the window."""
    burst: PositiveFloat | None = None
    """How many of them may go at once; `limit` unless given, 1 is an even beat."""
    unit: str = Field(default="requests", pattern=r"^[a-z][a-z0-9_-]*$")
    """What is counted: `requests`, or a unit that items name in their `cost`, such as `tokens`."""

    @field_validator("burst")
    @classmethod
    def _burst_within_limit(cls, burst: float | None, info: ValidationInfo) -> float | None:
        limit = info.data.get("limit")
        if burst is not None and limit is not None and burst > limit:
            raise ValueError("must not be above limit; lower burst or raise limit")
        return burst

    def to_rate(self) -> Rate:
        """This window as the core knows it."""
        return Rate(self.limit, self.per, self.limit if self.burst is None else self.burst, self.unit)


class AdaptiveLimitConfig(ConfigSection):
    """How many calls `adaptive` keeps in flight where no limit is declared: learned from the gradient of latency."""

    min: PositiveInt = 1
    """Never fewer."""
    max: PositiveInt = Field(default=200, validate_default=True)
    """Never more."""
    initial: PositiveInt = Field(default=20, validate_default=True)
    """What it starts with; between `min` and `max`."""

    @field_validator("max")
    @classmethod
    def _max_not_below_min(cls, max_limit: int, info: ValidationInfo) -> int:
        if max_limit < info.data.get("min", 1):
            raise ValueError("must not be below min; raise max or lower min")
        return max_limit

    @field_validator("initial")
    @classmethod
    def _initial_between(cls, initial: int, info: ValidationInfo) -> int:
        if "min" in info.data and "max" in info.data and not info.data["min"] <= initial <= info.data["max"]:
            raise ValueError("must lie between min and max; change one of them")
        return initial


class ConcurrencyConfig(ConfigSection):
    """How many calls may be in flight: a declared `limit`, or `adaptive`."""

    limit: PositiveInt | None = None
    """Calls in flight, whatever the strategy."""
    adaptive: AdaptiveLimitConfig = AdaptiveLimitConfig()
    """Binds the `adaptive` strategy where no `limit` is declared."""

    @model_validator(mode="after")
    def _not_both(self) -> ConcurrencyConfig:
        if self.limit is not None and "adaptive" in self.model_fields_set:
            raise ValueError("has both limit and adaptive; keep one of them")
        return self

    @property
    def initial(self) -> int:
        """Calls in flight under `adaptive` where `limit` is None."""
        return self.adaptive.initial
