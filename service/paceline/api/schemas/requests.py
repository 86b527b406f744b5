"""Request bodies as callers send them; the type of an item is the model's own."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from paceline.model import Defaults, Duration, EngineName, Item, ItemRetry, Priority, Strategy


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


class BatchWithRawItems(BatchOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A batch whose large parts are still to be read."""

    requests: Raw
    defaults: Raw = Raw()


class BatchOutline(Struct, frozen=True):
    """Where the large parts of a batch begin and end; what else there is has been looked at by nobody."""

    requests: list[Raw]
    defaults: Raw = Raw()


class ItemOutline(Struct, frozen=True):
    """The parts of an item, or of the defaults, that make up a request's head, and its payload; unread."""

    url: Raw = Raw()
    path: Raw = Raw()
    headers: Raw = Raw()
    params: Raw = Raw()
    cost: Raw = Raw()
    json: Raw = Raw()
    body: Raw = Raw()
    body_base64: Raw = Raw()


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


class CompareRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A comparison of strategies: the same request, `n` times under each."""

    request: Annotated[Item, Meta(description="The request to send, without dependencies.")]
    n: Annotated[
        int,
        Meta(description="How often each strategy sends the request, at most `server.max_items`."),
    ] = 200
    strategies: Annotated[
        list[Strategy] | UnsetType,
        Meta(description="Strategies to run, in this order. Default: all; `token_bucket` only where a rate is known."),
    ] = UNSET
    engines: Annotated[
        list[EngineName] | UnsetType,
        Meta(description="Engines to run every strategy on. Default: the engine of the upstream."),
    ] = UNSET
    max_concurrency: Annotated[
        int | UnsetType,
        Meta(description="Maximum number of calls in flight, of `bounded` and `token_bucket`. Default: 20."),
    ] = UNSET
    rate: Annotated[
        RateSpec | UnsetType,
        Meta(description="Rate of `token_bucket`. Default: the upstream's first window of requests."),
    ] = UNSET
    unpaced: Annotated[
        bool,
        Meta(
            description="Run every strategy but `adaptive` outside the upstream's declared windows, one attempt a "
            "request; only where the upstream says `allow_unpaced: true`."
        ),
    ] = False


class UpstreamPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """A change of an upstream: at least one of the fields. `reset` is applied first; all is applied or nothing."""

    reset: Annotated[
        bool | UnsetType,
        Meta(description="True restores the configuration and forgets what was learned."),
    ] = UNSET
    rate: Annotated[
        list[RateSpec] | UnsetType,
        Meta(description="Rate windows in place of the configured ones, until a reset or a reload."),
    ] = UNSET
    paused: Annotated[
        bool | UnsetType,
        Meta(description="True stops sending; calls in flight end normally. False resumes."),
    ] = UNSET
