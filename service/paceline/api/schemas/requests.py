"""Request bodies as callers send them; the type of an item is the model's own."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from paceline.model import Defaults, Duration, EngineName, Item, ItemRetry, Priority, Strategy


class RateSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A rate window as callers write one."""

    limit: float
    per: Duration
    burst: float | UnsetType = UNSET
    unit: str = "requests"


class BatchOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a batch says besides its items."""

    strategy: Strategy = Strategy.ADAPTIVE
    max_concurrency: int | UnsetType = UNSET
    rate: RateSpec | UnsetType = UNSET
    deadline: Duration | UnsetType = UNSET
    priority: Priority = Priority.NORMAL
    on_failure: Literal["continue", "halt"] = "continue"
    retry: ItemRetry = ItemRetry()


class BatchRequest(BatchOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `POST /v1/batch` takes."""

    requests: list[Item]
    defaults: Defaults = Defaults()


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
    """What `POST /v1/fetch` takes: an item, which it is, and what a batch would say."""

    deadline: Duration | UnsetType = UNSET
    priority: Priority = Priority.INTERACTIVE


class CompareRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What `POST /v1/compare` takes."""

    request: Item
    n: int = 200
    strategies: list[Strategy] | UnsetType = UNSET
    engines: list[EngineName] | UnsetType = UNSET
    max_concurrency: int | UnsetType = UNSET
    rate: RateSpec | UnsetType = UNSET
    unpaced: bool = False


class UpstreamPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """What `PATCH /v1/upstreams/{name}` takes: at least one of these."""

    reset: bool | UnsetType = UNSET
    rate: list[RateSpec] | UnsetType = UNSET
    paused: bool | UnsetType = UNSET
