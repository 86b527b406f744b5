"""What an upstream's answer told of its limits, whatever its dialect: numbers are finite and zero or more."""

from __future__ import annotations

from msgspec import Struct


class RateWindowInfo(Struct, frozen=True):
    """One window as told; None is not told, or unusable. Reckoned from the moment the answer was sent."""

    name: str
    unit: str = "requests"
    limit: float | None = None
    """Above zero."""
    remaining: float | None = None
    reset_after_s: float | None = None
    """Until the whole limit is there again."""
    per_s: float | None = None
    """Above zero: the window's length, where told or known of this upstream."""
    whole_seconds: bool = False
    """The reset was told in whole seconds: the true one may be a second later."""
    refills: bool = False
    """It comes back steadily until the reset (a bucket), not all at once at it: the reset is not the time to wait."""
    partition: str | None = None
    """Whose share it is, where the upstream says so: another partition has another `remaining`."""

    @property
    def exhausted(self) -> bool:
        """Not even one more is left."""
        return self.remaining is not None and self.remaining < 1


class RateInfo(Struct, frozen=True):
    """What one answer told, and the dialect that read it."""

    dialect: str
    retry_after_s: float | None = None
    """The wait that this response means, on a refusal only: the first usable of Retry-After, an IETF reset and the
    vendor's own field."""
    windows: tuple[RateWindowInfo, ...] = ()
    clamped: bool = False
    """Some wait or reset was longer than allowed and was cut."""
    scope: str | None = None
    """Whom a refusal binds, in the upstream's word (`user`, `global`, `shared`)."""
    bucket: str | None = None
    """The budget's name, where calls share one across paths."""
    reason: str | None = None
    """The limit that refused, in the upstream's word."""
    violated: tuple[str, ...] = ()
    """The windows that refused, where the body names them."""
    near_limit: bool = False
    """The upstream warns that little is left."""
