"""How the demo API behaves, and the times that its flags take."""

from __future__ import annotations

from random import Random

import msgspec

from paceline.units import parse_duration


class DurationRange(msgspec.Struct, frozen=True):
    """A time drawn anew each time it is needed; seconds."""

    min_s: float = 0.0
    max_s: float = 0.0

    def sample(self, random: Random) -> float:
        return self.min_s if self.min_s == self.max_s else random.uniform(self.min_s, self.max_s)


class ApiOptions(msgspec.Struct, frozen=True):
    """How the API behaves."""

    limit: float
    per_s: float
    mode: str = "sliding"
    extra_limits: tuple[tuple[float, float, str], ...] = ()
    """More limits: how much, in how many seconds, of which unit; of the same mode."""
    latency: DurationRange = DurationRange()
    jitter: DurationRange = DurationRange()
    """On the way there, and again on the way back."""
    share: float = 0.0
    """How much of the first limit other clients take."""
    retry_after: bool = False
    count_refused: bool = False
    close_connections: bool = False
    """Each answer ends its connection."""
    seed: int | None = None


def parse_latency(text: str) -> DurationRange:
    """Parse `20ms`, or `100ms..800ms`.

    Raises:
        ValueError: anything else.
    """
    min_text, _, max_text = text.partition("..")
    span = DurationRange(parse_duration(min_text), parse_duration(max_text or min_text))
    if span.max_s < span.min_s:
        raise ValueError("ends before it begins; write the shorter time first")
    return span


def parse_jitter(text: str) -> DurationRange:
    """Parse `5ms` as 0 to 5 ms; a range as `parse_latency` does."""
    span = parse_latency(text)
    return span if ".." in text else DurationRange(0.0, span.max_s)
