"""What a caller gets: one outcome for each item, its receipt, and the summary of a batch."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Raw, Struct

from paceline.model.enums import OutcomeKind


class Timing(Struct, frozen=True, gc=False):
    """Where the item's time went, in milliseconds. The five parts (`queue_ms`, `rate_wait_ms`, `pause_ms`,
    `backoff_ms`, `upstream_ms`) add up to `total_ms`, but for the time that Paceline itself spends."""

    start_ms: Annotated[
        float,
        Meta(description="When the item was ready (its dependencies done), in milliseconds after the batch started."),
    ]
    total_ms: Annotated[float, Meta(description="Milliseconds from when the item was ready to its outcome.")]
    queue_ms: Annotated[float, Meta(description="Milliseconds of waiting for a free concurrency slot.")]
    rate_wait_ms: Annotated[float, Meta(description="Milliseconds of waiting for a rate window.")]
    pause_ms: Annotated[
        float,
        Meta(description="Milliseconds of waiting for a throttle pause or an open circuit breaker to end."),
    ]
    backoff_ms: Annotated[float, Meta(description="Milliseconds between attempts.")]
    upstream_ms: Annotated[float, Meta(description="Milliseconds of all attempts in flight.")]
    limited_by: Annotated[str, Meta(description="The largest of the five parts.")]


class Failure(Struct, frozen=True, gc=False):
    """Why an item did not succeed."""

    code: Annotated[str, Meta(description="Code of the error, one of a closed set.")]
    message: Annotated[str, Meta(description="What went wrong, for people; the wording may change.")]
    sent: Annotated[
        bool,
        Meta(description="False only if no byte of the request can have reached the upstream; then a repeat is safe."),
    ]
    retry_after_ms: Annotated[
        float | None,
        Meta(description="Milliseconds after which a repeat may succeed; null if unknown."),
    ] = None


class Outcome(Struct, frozen=True, gc=False):
    """The result of one item: the response of the upstream, or why there is none."""

    id: Annotated[str, Meta(description="The item's `id`; its index as text if it gave none.")]
    index: Annotated[int, Meta(description="Position of the item in `requests`, from 0.")]
    upstream: Annotated[
        str,
        Meta(description="Upstream that the item belongs to; `other` for hosts that are not declared."),
    ]
    outcome: Annotated[OutcomeKind, Meta(description="Kind of the result.")]
    status: Annotated[int | None, Meta(description="Status of the upstream's response; null without one.")]
    headers: Annotated[
        dict[str, str | list[str]],
        Meta(
            description="Response headers, names in lower case. Repeated headers are joined with a comma; "
            "`set-cookie` is a list."
        ),
    ]
    body: Annotated[
        Raw | str | None,
        Meta(description="Response body in the form that `body_encoding` names: a JSON value, text, base64, or null."),
    ]
    body_encoding: Annotated[
        str,
        Meta(description="Form of `body`: `json` a JSON value, `text` text, `base64` bytes in base64, `none` no body."),
    ]
    attempts: Annotated[int, Meta(description="Number of attempts that were made.")]
    error: Annotated[Failure | None, Meta(description="Why the item did not succeed; null if it did.")]
    timing: Annotated[Timing, Meta(description="Where the item's time went.")]


class Summary(Struct, frozen=True, gc=False):
    """A batch in six numbers."""

    total: Annotated[int, Meta(description="Number of items.")]
    succeeded: Annotated[int, Meta(description="Items with the outcome `success`.")]
    failed: Annotated[int, Meta(description="Items with any outcome but `success` and `rejected`.")]
    rejected: Annotated[int, Meta(description="Items with the outcome `rejected`, which were never sent.")]
    attempts: Annotated[int, Meta(description="Attempts of all items together.")]
    retries: Annotated[int, Meta(description="Attempts after the first one of each item.")]
