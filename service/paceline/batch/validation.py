"""The check of a batch as a whole: what is wrong here is the caller's mistake about the batch, and 422.

What is wrong with one item's target (URL, method, header, upstream, address, a cost no window can pay) is not looked
at: that item will be `rejected` and the others run. One pass, no copies.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from paceline.api.errors import TooLarge
from paceline.api.schemas.requests import BatchRequest, FetchRequest, RateSpec
from paceline.batch.dependency_order import dependency_ids, topological_order
from paceline.batch.field_types import (
    FieldError,
    cap_priority,
    check_cost,
    check_max_concurrency,
    check_retry,
    parse_deadline,
    parse_rate,
    parse_seconds,
)
from paceline.config.server import ServerConfig
from paceline.model import Batch, Defaults, Item, Rate, Strategy, Tenant

MAX_DEPENDENCIES_PER_ITEM = 10
"""A batch may name so many dependencies for each item it may have: all of them may end at one moment."""

_STRATEGIES_WITH_CONCURRENCY = (Strategy.BOUNDED, Strategy.TOKEN_BUCKET, Strategy.ADAPTIVE)
_STRATEGIES_WITH_RATE = (Strategy.TOKEN_BUCKET, Strategy.ADAPTIVE)


def build_batch(body: BatchRequest, tenant: Tenant, limits: ServerConfig, *, items_checked: bool = False) -> Batch:
    """The batch a body asks for; `looked_at`: its items passed `check_item` already.

    Raises:
        Invalid, TooLarge: it cannot be run as a whole; names the field.
    """
    items = body.requests
    check_item_count(len(items), limits)
    try:
        if not items:
            raise FieldError("requests", "is empty; add at least one")
        if not items_checked:
            _check_items(items)
        _check_ids_and_dependencies(items, MAX_DEPENDENCIES_PER_ITEM * limits.max_items)
        _check_defaults(body.defaults)
        check_retry(body.retry)
        return Batch(
            items=items,
            strategy=body.strategy,
            max_concurrency=_check_batch_concurrency(body.max_concurrency, body.strategy),
            rate=_check_batch_rate(body.rate, body.strategy),
            deadline_s=parse_deadline(body.deadline, limits),
            priority=cap_priority(body.priority, tenant),
            halt=body.on_failure == "halt",
            retry=body.retry,
            defaults=body.defaults,
            tenant=tenant,
        )
    except FieldError as error:
        raise error.to_invalid() from None


def build_fetch_batch(body: FetchRequest, tenant: Tenant, limits: ServerConfig) -> Batch:
    """The batch of one that a single fetch is.

    Raises:
        Invalid: its shape cannot be used; names the field.
    """
    try:
        check_item(body)
        check_no_dependencies(body)
        return Batch(
            items=[body],
            deadline_s=parse_deadline(body.deadline, limits),
            priority=cap_priority(body.priority, tenant),
            tenant=tenant,
        )
    except FieldError as error:
        raise error.to_invalid() from None


def check_item_count(count: int, limits: ServerConfig) -> None:
    """No more than one batch may have.

    Raises:
        TooLarge: it has more.
    """
    if count > limits.max_items:
        raise TooLarge(
            f"{count} items are more than the {limits.max_items} of one batch; send several, or raise server.max_items",
            field="requests",
        )


def _check_items(items: Sequence[Item]) -> None:
    index = 0
    try:
        for item in items:
            check_item(item)
            index += 1
    except FieldError as error:
        raise error.with_prefix(f"requests[{index}]") from None


def _check_ids_and_dependencies(items: Sequence[Item], max_dependencies: int) -> None:
    has_ids = False
    dependency_count = 0
    for index, item in enumerate(items):
        if item.id is not UNSET:
            has_ids = True
        if item.depends_on is not UNSET or item.dependsOn is not UNSET:
            dependency_count += len(dependency_ids(item))
            if dependency_count > max_dependencies:
                field = f"requests[{index}].{'dependsOn' if item.depends_on is UNSET else 'depends_on'}"
                raise FieldError(
                    field, f"is one too many: a batch may name {max_dependencies} ids in all; depend on fewer"
                )
    if has_ids:
        _check_unique_ids(items)
    if dependency_count:
        try:
            topological_order(items)
        except ValueError as error:
            field, _, problem = str(error).partition(" ")
            if not field.startswith("requests["):
                field, problem = "requests", f"cannot be put in order: {error}"
            raise FieldError(field, problem) from None


def check_item(item: Item) -> None:
    """What an item must keep to by itself."""
    if item.body is not UNSET or item.body_base64 is not UNSET:
        _check_single_body(item)
    if item.timeout is not UNSET:
        parse_seconds(item.timeout, "timeout")
    if item.cost is not UNSET:
        check_cost(item.cost)
    if item.retry is not UNSET:
        check_retry(item.retry)
    if item.dependsOn is not UNSET and item.depends_on is not UNSET:
        raise FieldError("dependsOn", "is the same as depends_on, which is given too; remove one of them")


def check_no_dependencies(item: Item) -> None:
    """An item that runs by itself has nobody to wait for."""
    for field, dependencies in (("depends_on", item.depends_on), ("dependsOn", item.dependsOn)):
        if dependencies is not UNSET:
            raise FieldError(field, "means nothing for a single request; remove it")


def _check_defaults(defaults: Defaults) -> None:
    try:
        if defaults.timeout is not UNSET:
            parse_seconds(defaults.timeout, "timeout")
        if defaults.cost is not UNSET:
            check_cost(defaults.cost)
    except FieldError as error:
        raise error.with_prefix("defaults") from None


def _check_batch_concurrency(value: int | UnsetType, strategy: Strategy) -> int | None:
    if value is UNSET:
        return None
    if strategy not in _STRATEGIES_WITH_CONCURRENCY:
        raise FieldError("max_concurrency", f"means nothing under {strategy.value}; remove it, or use bounded")
    return check_max_concurrency(value)


def _check_batch_rate(body: RateSpec | UnsetType, strategy: Strategy) -> Rate | None:
    if body is UNSET:
        if strategy is Strategy.TOKEN_BUCKET:
            raise FieldError("rate", 'is required by token_bucket; add one, as in {"limit": 50, "per": "1s"}')
        return None
    if strategy not in _STRATEGIES_WITH_RATE:
        raise FieldError("rate", f"means nothing under {strategy.value}; remove it, or use token_bucket")
    try:
        rate = parse_rate(body)
        if strategy is Strategy.TOKEN_BUCKET and rate.unit != "requests":
            raise FieldError("unit", "means nothing under token_bucket, which counts requests; remove it")
    except FieldError as error:
        raise error.with_prefix("rate") from None
    return rate


def _check_single_body(item: Item) -> None:
    given = (
        ("json", memoryview(item.json).nbytes > 0),
        ("body", item.body is not UNSET),
        ("body_base64", item.body_base64 is not UNSET),
    )
    bodies = [name for name, is_given in given if is_given]
    if len(bodies) > 1:
        raise FieldError(bodies[1], f"is a second body beside {bodies[0]}; keep one of them")


def _check_unique_ids(items: Sequence[Item]) -> None:
    first_index: dict[str, int] = {}
    for index, item in enumerate(items):
        name = str(index) if item.id is UNSET else item.id
        earlier = first_index.setdefault(name, index)
        if earlier != index:
            duplicate, other = (index, earlier) if item.id is not UNSET else (earlier, index)
            raise FieldError(
                f"requests[{duplicate}].id", f"is {name[:100]!r}, as is that of requests[{other}]; give each its own"
            )
