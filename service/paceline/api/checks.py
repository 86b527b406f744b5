"""The check of a batch as a whole: what is wrong here is the caller's mistake about the batch, and 422.

What is wrong with one item's target (URL, method, header, upstream, address, a cost no window can pay) is not looked
at: that item will be `rejected` and the others run. One pass, no copies.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from paceline.api.errors import TooLarge
from paceline.api.fields import Wrong, check_cap, check_cost, check_retry, deadline_of, lowered, rate_of, seconds_of
from paceline.api.schemas import BatchBody, FetchBody, RateBody
from paceline.batch.order import in_order, needs_of
from paceline.config.server import Server
from paceline.model import Batch, Defaults, Item, Rate, Strategy, Tenant

NEEDS_OF_ONE = 10
"""A batch may name so many dependencies for each item it may have: all of them may end at one moment."""

_CONCURRENCY_COUNTS = (Strategy.BOUNDED, Strategy.TOKEN_BUCKET, Strategy.ADAPTIVE)
_RATE_COUNTS = (Strategy.TOKEN_BUCKET, Strategy.ADAPTIVE)


def batch_of(body: BatchBody, tenant: Tenant, limits: Server, *, looked_at: bool = False) -> Batch:
    """The batch a body asks for; `looked_at`: its items passed `check_item` already.

    Raises:
        Invalid, TooLarge: it cannot be run as a whole; names the field.
    """
    items = body.requests
    check_count(len(items), limits)
    try:
        if not items:
            raise Wrong("requests", "is empty; add at least one")
        if not looked_at:
            _check_each(items)
        _check_together(items, NEEDS_OF_ONE * limits.max_items)
        _check_defaults(body.defaults)
        check_retry(body.retry)
        return Batch(
            items=items,
            strategy=body.strategy,
            max_concurrency=_own_cap(body.max_concurrency, body.strategy),
            rate=_own_rate(body.rate, body.strategy),
            deadline_s=deadline_of(body.deadline, limits),
            priority=lowered(body.priority, tenant),
            halt=body.on_failure == "halt",
            retry=body.retry,
            defaults=body.defaults,
            tenant=tenant,
        )
    except Wrong as wrong:
        raise wrong.told() from None


def fetch_of(body: FetchBody, tenant: Tenant, limits: Server) -> Batch:
    """The batch of one that a single fetch is.

    Raises:
        Invalid: its shape cannot be used; names the field.
    """
    try:
        check_item(body)
        check_alone(body)
        return Batch(
            items=[body],
            deadline_s=deadline_of(body.deadline, limits),
            priority=lowered(body.priority, tenant),
            tenant=tenant,
        )
    except Wrong as wrong:
        raise wrong.told() from None


def check_count(items: int, limits: Server) -> None:
    """No more than one batch may have.

    Raises:
        TooLarge: it has more.
    """
    if items > limits.max_items:
        raise TooLarge(
            f"{items} items are more than the {limits.max_items} of one batch; send several, or raise server.max_items",
            field="requests",
        )


def _check_each(items: Sequence[Item]) -> None:
    checked = 0
    try:
        for item in items:
            check_item(item)
            checked += 1
    except Wrong as wrong:
        raise wrong.within(f"requests[{checked}]") from None


def _check_together(items: Sequence[Item], most_needs: int) -> None:
    named = False
    needs = 0
    for index, item in enumerate(items):
        if item.id is not UNSET:
            named = True
        if item.depends_on is not UNSET or item.dependsOn is not UNSET:
            needs += len(needs_of(item))
            if needs > most_needs:
                field = f"requests[{index}].{'dependsOn' if item.depends_on is UNSET else 'depends_on'}"
                raise Wrong(field, f"is one too many: a batch may name {most_needs} ids in all; depend on fewer")
    if named:
        _check_ids(items)
    if needs:
        try:
            in_order(items)
        except ValueError as error:
            field, _, problem = str(error).partition(" ")
            if not field.startswith("requests["):
                field, problem = "requests", f"cannot be put in order: {error}"
            raise Wrong(field, problem) from None


def check_item(item: Item) -> None:
    """What an item must keep to by itself."""
    if item.body is not UNSET or item.body_base64 is not UNSET:
        _check_one_body(item)
    if item.timeout is not UNSET:
        seconds_of(item.timeout, "timeout")
    if item.cost is not UNSET:
        check_cost(item.cost)
    if item.retry is not UNSET:
        check_retry(item.retry)
    if item.dependsOn is not UNSET and item.depends_on is not UNSET:
        raise Wrong("dependsOn", "is the same as depends_on, which is given too; remove one of them")


def check_alone(item: Item) -> None:
    """An item that runs by itself has nobody to wait for."""
    for field, needs in (("depends_on", item.depends_on), ("dependsOn", item.dependsOn)):
        if needs is not UNSET:
            raise Wrong(field, "means nothing for a single request; remove it")


def _check_defaults(defaults: Defaults) -> None:
    try:
        if defaults.timeout is not UNSET:
            seconds_of(defaults.timeout, "timeout")
        if defaults.cost is not UNSET:
            check_cost(defaults.cost)
    except Wrong as wrong:
        raise wrong.within("defaults") from None


def _own_cap(wanted: int | UnsetType, strategy: Strategy) -> int | None:
    if wanted is UNSET:
        return None
    if strategy not in _CONCURRENCY_COUNTS:
        raise Wrong("max_concurrency", f"means nothing under {strategy.value}; remove it, or use bounded")
    return check_cap(wanted)


def _own_rate(body: RateBody | UnsetType, strategy: Strategy) -> Rate | None:
    if body is UNSET:
        if strategy is Strategy.TOKEN_BUCKET:
            raise Wrong("rate", 'is required by token_bucket; add one, as in {"limit": 50, "per": "1s"}')
        return None
    if strategy not in _RATE_COUNTS:
        raise Wrong("rate", f"means nothing under {strategy.value}; remove it, or use token_bucket")
    try:
        rate = rate_of(body)
        if strategy is Strategy.TOKEN_BUCKET and rate.unit != "requests":
            raise Wrong("unit", "means nothing under token_bucket, which counts requests; remove it")
    except Wrong as wrong:
        raise wrong.within("rate") from None
    return rate


def _check_one_body(item: Item) -> None:
    given = (
        ("json", memoryview(item.json).nbytes > 0),
        ("body", item.body is not UNSET),
        ("body_base64", item.body_base64 is not UNSET),
    )
    bodies = [name for name, is_given in given if is_given]
    if len(bodies) > 1:
        raise Wrong(bodies[1], f"is a second body beside {bodies[0]}; keep one of them")


def _check_ids(items: Sequence[Item]) -> None:
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        name = str(index) if item.id is UNSET else item.id
        earlier = first.setdefault(name, index)
        if earlier != index:
            at, other = (index, earlier) if item.id is not UNSET else (earlier, index)
            raise Wrong(f"requests[{at}].id", f"is {name[:100]!r}, as is that of requests[{other}]; give each its own")
