"""What a caller gets: one outcome for each item, its receipt, and the summary of a batch."""

from __future__ import annotations

from msgspec import Raw, Struct

from paceline.model.enums import OutcomeKind


class Timing(Struct, frozen=True, gc=False):
    """An outcome's receipt in milliseconds; the five parts add up to `total_ms` but for Paceline's own work."""

    start_ms: float
    total_ms: float
    queue_ms: float
    rate_wait_ms: float
    pause_ms: float
    backoff_ms: float
    upstream_ms: float
    limited_by: str


class Failure(Struct, frozen=True, gc=False):
    """Why an item has no success. `sent` is false only when no byte of it can have reached the upstream."""

    code: str
    message: str
    sent: bool
    retry_after_ms: float | None = None


class Outcome(Struct, frozen=True, gc=False):
    """The one answer an item gets. Encodes to exactly the object the API documents."""

    id: str
    index: int
    upstream: str
    outcome: OutcomeKind
    status: int | None
    headers: dict[str, str | list[str]]
    body: Raw | str | None
    body_encoding: str
    attempts: int
    error: Failure | None
    timing: Timing


class Summary(Struct, frozen=True, gc=False):
    """A batch in six numbers; `failed` is every outcome but success and rejected."""

    total: int
    succeeded: int
    failed: int
    rejected: int
    attempts: int
    retries: int
