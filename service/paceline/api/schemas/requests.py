"""Request bodies as callers send them; the type of an item is the model's own."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from paceline.batch.batch_request import BatchOptions, RateSpec
from paceline.model import EngineName, Item, Strategy


class BatchWithRawItems(BatchOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A batch whose large parts are still to be read."""

    requests: Raw
    defaults: Raw = Raw()


class BatchOutline(Struct, frozen=True):
    """Where the large parts of a batch begin and end; all other fields are still unread."""

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
