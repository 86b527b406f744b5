"""The limits that one response advertises, in any dialect: numbers are finite and zero or more."""

from __future__ import annotations

from msgspec import Struct


class RateWindowInfo(Struct, frozen=True):
    """One advertised window; None is absent or unusable. Times count from the moment the response was sent."""

    name: str
    unit: str = "requests"
    limit: float | None = None
    """Above zero."""
    remaining: float | None = None
    reset_after_s: float | None = None
    """Seconds until the whole limit is available again."""
    per_s: float | None = None
    """Above zero: the window's length, where advertised or known of this upstream."""
    whole_seconds: bool = False
    """The reset is in whole seconds: the true one may be up to a second later."""
    refills: bool = False
    """It refills steadily until the reset (a bucket), not at once: the reset is not the time to wait."""
    partition: str | None = None
    """The partition key, where the upstream names one: another partition has another `remaining`."""

    @property
    def exhausted(self) -> bool:
        """Less than one unit remains."""
        return self.remaining is not None and self.remaining < 1


class RateInfo(Struct, frozen=True):
    """What one response advertises, and the dialect that parsed it."""

    dialect: str
    retry_after_s: float | None = None
    """The wait that this response means, on a refusal only: the first usable of Retry-After, an IETF reset and the
    vendor's own field."""
    windows: tuple[RateWindowInfo, ...] = ()
    clamped: bool = False
    """A wait or reset was longer than allowed and was cut."""
    scope: str | None = None
    """What a refusal applies to, in the upstream's word (`user`, `global`, `shared`)."""
    bucket: str | None = None
    """The budget's name, where calls share one across paths."""
    reason: str | None = None
    """The limit that refused, in the upstream's word."""
    violated: tuple[str, ...] = ()
    """The windows that refused, where the body names them."""
    near_limit: bool = False
    """The upstream warns that little is left."""
