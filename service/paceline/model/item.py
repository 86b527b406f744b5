"""What a caller asks for: items, their defaults, and the batch that they form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from paceline.model.enums import EngineName, Expect, Priority, Strategy
from paceline.model.request import Rate


class ItemRetry(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The limits of an item's retries. A field that is left out is taken from the batch, then from the upstream."""

    attempts: Annotated[
        int | UnsetType,
        Meta(description="Maximum number of attempts, the first one included; 1 turns retries off."),
    ] = UNSET
    throttles: Annotated[
        int | UnsetType,
        Meta(description="Maximum number of repeats after a throttle (such as a 429); these do not use up `attempts`."),
    ] = UNSET


Duration = str | int | float
"""As callers write one: `"250ms"`, `"30s"`, `"2m"`, or a number of seconds."""


class Item(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One request to send. Only `url`, or `upstream` and `path`, is required."""

    # Decoded once and never copied: a batch's items are the objects that its body was decoded into.
    id: Annotated[
        str | UnsetType,
        Meta(description="Name of the item in the response, unique within the batch. Default: its index."),
    ] = UNSET
    method: Annotated[str | UnsetType, Meta(description="HTTP method. Default: `GET`.")] = UNSET
    url: Annotated[
        str | UnsetType,
        Meta(description="Absolute `http` or `https` URL. Give either `url`, or `upstream` and `path`."),
    ] = UNSET
    upstream: Annotated[
        str | UnsetType,
        Meta(description="Name of the declared upstream that `path` belongs to."),
    ] = UNSET
    path: Annotated[
        str | UnsetType,
        Meta(description="Path, and query if any, below the `base_url` of the upstream."),
    ] = UNSET
    headers: Annotated[
        dict[str, str | list[str]] | UnsetType,
        Meta(description="Request headers. A value is text, or a list of texts for a header that is sent repeatedly."),
    ] = UNSET
    params: Annotated[
        dict[str, str | list[str]] | UnsetType,
        Meta(description="Query parameters, added to the query of the URL. A value is text or a list of texts."),
    ] = UNSET
    json: Annotated[
        Raw,
        Meta(description="Request body: any JSON value. `null` sends `null`. Exclusive with `body` and `body_base64`."),
    ] = field(default_factory=Raw)
    body: Annotated[
        str | UnsetType,
        Meta(description="Request body: text, sent in UTF-8. Exclusive with `json` and `body_base64`."),
    ] = UNSET
    body_base64: Annotated[
        str | UnsetType,
        Meta(description="Request body: bytes, written in base64. Exclusive with `json` and `body`."),
    ] = UNSET
    depends_on: Annotated[
        list[str] | UnsetType,
        Meta(description="Ids of the items that must succeed before this one is sent."),
    ] = UNSET
    dependsOn: Annotated[  # noqa: N815 - the spelling some callers already use
        list[str] | UnsetType,
        Meta(description="Another spelling of `depends_on`; give one of the two."),
    ] = UNSET
    idempotent: Annotated[
        bool,
        Meta(description="The item may be sent again even if its method alone (such as POST) does not allow it."),
    ] = False
    cost: Annotated[
        float | dict[str, float] | UnsetType,
        Meta(description="What the item uses of the rate windows; each attempt counts as at least one request."),
    ] = UNSET
    timeout: Annotated[
        Duration | UnsetType,
        Meta(description="Time limit of the item, in flight and in backoff; waits for quota do not count."),
    ] = UNSET
    retry: Annotated[
        ItemRetry | UnsetType,
        Meta(description="Limits of the item's retries, in place of those of the batch."),
    ] = UNSET
    expect: Annotated[
        Expect | UnsetType,
        Meta(description="Form in which the response body is returned. Default: `auto`."),
    ] = UNSET


class Defaults(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What every item of a batch starts from. A field of the item wins; `headers` and `params` merge by name."""

    upstream: Annotated[
        str | UnsetType,
        Meta(description="Upstream of the items that give neither `url` nor `upstream`."),
    ] = UNSET
    method: Annotated[str | UnsetType, Meta(description="HTTP method of the items that give none.")] = UNSET
    headers: Annotated[
        dict[str, str | list[str]] | UnsetType,
        Meta(description="Headers of every item; a header of the same name on an item replaces it."),
    ] = UNSET
    params: Annotated[
        dict[str, str | list[str]] | UnsetType,
        Meta(description="Query parameters of every item; a parameter of the same name on an item replaces it."),
    ] = UNSET
    timeout: Annotated[
        Duration | UnsetType,
        Meta(description="Time limit of each item that gives none, in flight and in backoff."),
    ] = UNSET
    expect: Annotated[
        Expect | UnsetType,
        Meta(description="Form in which response bodies are returned, for the items that give none."),
    ] = UNSET
    cost: Annotated[
        float | dict[str, float] | UnsetType,
        Meta(description="What each item that gives no `cost` uses of the rate windows."),
    ] = UNSET
    idempotent: Annotated[
        bool,
        Meta(description="Every item may be sent again even if its method alone does not allow it."),
    ] = False


class Tenant(Struct, frozen=True):
    """Who asks: an API key's name and what it may reach."""

    name: str = "anonymous"
    weight: float = 1.0
    """Its share of a budget among the tenants of its class."""
    max_priority: Priority = Priority.INTERACTIVE
    upstreams: frozenset[str] | None = None
    """The only upstreams it may reach; None is all, undeclared hosts included."""


class Batch(Struct, frozen=True):
    """A batch that was checked as a whole: its items may still prove unusable one by one."""

    items: Sequence[Item]
    strategy: Strategy = Strategy.ADAPTIVE
    max_concurrency: int | None = None
    rate: Rate | None = None
    deadline_s: float = 50.0
    priority: Priority = Priority.NORMAL
    halt: bool = False
    retry: ItemRetry = ItemRetry()
    defaults: Defaults = Defaults()
    tenant: Tenant = Tenant()
    unpaced: bool = False
    """Outside the upstreams' windows, feeding nothing: only for a comparison, and only where an upstream allows it."""
    engine: EngineName | None = None
    """An engine other than the upstream's own."""
