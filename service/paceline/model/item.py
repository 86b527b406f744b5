"""What a caller asks for: items, their defaults, and the batch that they form."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, Raw, Struct, UnsetType, field

from paceline.model.enums import EngineName, Expect, Priority, Strategy
from paceline.model.request import Rate


class ItemRetry(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What an item or a batch may say about its retries."""

    attempts: int | UnsetType = UNSET
    throttles: int | UnsetType = UNSET


Duration = str | int | float
"""As callers write one: `"250ms"`, `"30s"`, `"2m"`, or a number of seconds."""


class Item(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One request of a batch, as the caller wrote it; decoded once and never copied."""

    id: str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    upstream: str | UnsetType = UNSET
    path: str | UnsetType = UNSET
    headers: dict[str, str | list[str]] | UnsetType = UNSET
    params: dict[str, str | list[str]] | UnsetType = UNSET
    json: Raw = field(default_factory=Raw)
    body: str | UnsetType = UNSET
    body_base64: str | UnsetType = UNSET
    depends_on: list[str] | UnsetType = UNSET
    dependsOn: list[str] | UnsetType = UNSET  # noqa: N815 - the spelling some callers already use
    idempotent: bool = False
    cost: float | dict[str, float] | UnsetType = UNSET
    timeout: Duration | UnsetType = UNSET
    retry: ItemRetry | UnsetType = UNSET
    expect: Expect | UnsetType = UNSET


class Defaults(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What every item of a batch starts from; an item's own word wins, headers and params merge by name."""

    upstream: str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    headers: dict[str, str | list[str]] | UnsetType = UNSET
    params: dict[str, str | list[str]] | UnsetType = UNSET
    timeout: Duration | UnsetType = UNSET
    expect: Expect | UnsetType = UNSET
    cost: float | dict[str, float] | UnsetType = UNSET
    idempotent: bool = False


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
