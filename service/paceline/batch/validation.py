"""The check of a batch as a whole: a mistake here is an `InputError`, and nothing of the batch runs.

One item's target (URL, method, header, upstream, address, a cost no window can pay) is not checked: an item that cannot
be sent is `rejected` later and the others run. One pass, no copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from paceline.batch.batch_request import BatchOptions, BatchRequest, FetchRequest, RateSpec
from paceline.batch.dependency_order import dependency_field, dependency_ids, topological_order
from paceline.batch.field_types import (
    cap_priority,
    check_cost,
    check_max_concurrency,
    check_retry,
    parse_deadline,
    parse_rate,
    parse_seconds,
)
from paceline.batch.input_errors import FieldError, TooManyItems
from paceline.model import Batch, Defaults, Item, Rate, Strategy, Tenant

if TYPE_CHECKING:  # not at run time: a command that checks its flags starts without pydantic
    from paceline.config.server import ServerConfig

MAX_DEPENDENCIES_PER_ITEM = 10
"""A batch may name this many dependencies for each item it may have: all of them may end at one moment."""

_RATE_EXAMPLE = '{"limit": 50, "per": "1s"}'


def build_batch(body: BatchRequest, tenant: Tenant, limits: ServerConfig, *, items_checked: bool = False) -> Batch:
    """The batch that a body asks for; `items_checked`: its items passed `check_item` already.

    Raises:
        FieldError, TooManyItems: it cannot be run as a whole.
    """
    items = body.requests
    check_item_count(len(items), limits)
    if not items:
        raise FieldError("requests", "is empty; add at least one")
    if not items_checked:
        _check_items(items)
    _check_ids_and_dependencies(items, MAX_DEPENDENCIES_PER_ITEM * limits.max_items)
    _check_defaults(body.defaults)
    return replace(
        apply_options(body, parse_deadline(body.deadline, limits), tenant), items=items, defaults=body.defaults
    )


def build_fetch_batch(body: FetchRequest, tenant: Tenant, limits: ServerConfig) -> Batch:
    """The batch of one that a single fetch is.

    Raises:
        FieldError: it cannot be used.
    """
    check_item(body)
    check_no_dependencies(body)
    return Batch(
        items=[body],
        deadline_s=parse_deadline(body.deadline, limits),
        priority=cap_priority(body.priority, tenant),
        tenant=tenant,
    )


def apply_options(
    options: BatchOptions, deadline_s: float, tenant: Tenant, *, rate_example: str = _RATE_EXAMPLE
) -> Batch:
    """A batch under these options whose items are still to come; `rate_example`: a rate in its caller's notation.

    Raises:
        FieldError: an option that cannot be used, or not under this strategy.
    """
    check_retry(options.retry)
    return Batch(
        items=(),
        strategy=options.strategy,
        max_concurrency=_check_batch_concurrency(options.max_concurrency, options.strategy),
        rate=_check_batch_rate(options.rate, options.strategy, rate_example),
        deadline_s=deadline_s,
        priority=cap_priority(options.priority, tenant),
        halt=options.on_failure == "halt",
        retry=options.retry,
        tenant=tenant,
    )


def check_item_count(count: int, limits: ServerConfig) -> None:
    """No more than one batch may have.

    Raises:
        TooManyItems: it has more.
    """
    if count > limits.max_items:
        raise TooManyItems(count, limits.max_items)


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
                problem = f"is one too many: a batch may name {max_dependencies} ids in all; depend on fewer"
                raise FieldError(f"requests[{index}].{dependency_field(item)}", problem)
    if has_ids:
        _check_unique_ids(items)
    if dependency_count:
        topological_order(items)


def check_item(item: Item) -> None:
    """Check what can be said of an item without its batch.

    Raises:
        FieldError: it cannot be used.
    """
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
    """A single item has no other one to wait for."""
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
    if not strategy.takes_max_concurrency:
        raise FieldError("max_concurrency", f"means nothing under {strategy.value}; remove it, or use bounded")
    return check_max_concurrency(value)


def _check_batch_rate(body: RateSpec | UnsetType, strategy: Strategy, example: str) -> Rate | None:
    if body is UNSET:
        if strategy is Strategy.TOKEN_BUCKET:
            raise FieldError("rate", f"is required by token_bucket; add one, as in {example}")
        return None
    if not strategy.takes_rate:
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
            raise duplicate_id(f"requests[{duplicate}].id", name, f"requests[{other}]")


def duplicate_id(field: str, name: str, other: str) -> FieldError:
    """The error of an id that `other` has too."""
    return FieldError(field, f"is {name[:100]!r}, as is that of {other}; give each its own")
