"""A batch and a single item as callers write them; `validation.py` turns them into a `Batch`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from paceline.model import Defaults, Duration, Item, ItemRetry, Priority, Strategy


class RateSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A rate window: at most `limit` units in any period of length `per`."""

    limit: Annotated[float, Meta(description="Maximum number of units in any period of length `per`.")]
    per: Annotated[Duration, Meta(description="Length of the period, at least 1ms.")]
    burst: Annotated[
        float | UnsetType,
        Meta(description="Units that may go at once, at most `limit`; 1 spaces requests evenly. Default: `limit`."),
    ] = UNSET
    unit: Annotated[
        str,
        Meta(description="What the window counts: `requests`, or a unit of the items' `cost` such as `tokens`."),
    ] = "requests"


class BatchOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a batch says of all its items together."""

    strategy: Annotated[
        Strategy,
        Meta(description="How the items are sent; `GET /v1/strategies` describes each strategy."),
    ] = Strategy.ADAPTIVE
    max_concurrency: Annotated[
        int | UnsetType,
        Meta(
            description="Maximum number of the batch's calls in flight; only with `bounded`, `token_bucket` and "
            "`adaptive`. Default: 20; with `adaptive` no limit but the upstream's."
        ),
    ] = UNSET
    rate: Annotated[
        RateSpec | UnsetType,
        Meta(
            description="Rate of the batch: required with `token_bucket`; with `adaptive` an additional window next "
            "to the upstream's; not allowed otherwise."
        ),
    ] = UNSET
    deadline: Annotated[
        Duration | UnsetType,
        Meta(
            description="Time limit of the whole batch, waits included; at most `server.max_deadline`. Default: "
            "50s, or `server.max_deadline` if that is shorter."
        ),
    ] = UNSET
    priority: Annotated[
        Priority,
        Meta(description="Priority class of the items. An API key's `max_priority` lowers it."),
    ] = Priority.NORMAL
    on_failure: Annotated[
        Literal["continue", "halt"],
        Meta(description="`halt`: the first item that fails ends the others. `continue`: they carry on."),
    ] = "continue"
    retry: Annotated[
        ItemRetry,
        Meta(description="Limits of the retries of every item, in place of those of the upstream."),
    ] = ItemRetry()


class BatchRequest(BatchOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A batch of requests."""

    requests: Annotated[list[Item], Meta(description="The items, at most `server.max_items`.")]
    defaults: Annotated[Defaults, Meta(description="What every item starts from.")] = Defaults()


class FetchRequest(Item, frozen=True, forbid_unknown_fields=True):
    """One request to send: the fields of an item, with a deadline and a priority."""

    deadline: Annotated[
        Duration | UnsetType,
        Meta(
            description="Time limit of the request, waits included; at most `server.max_deadline`. Default: "
            "50s, or `server.max_deadline` if that is shorter."
        ),
    ] = UNSET
    priority: Annotated[
        Priority,
        Meta(description="Priority class of the request. An API key's `max_priority` lowers it."),
    ] = Priority.INTERACTIVE
