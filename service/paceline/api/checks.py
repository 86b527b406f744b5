"""The check of a batch as a whole: what is wrong here is the caller's mistake about the batch, and 422.

What is wrong with one item's target (URL, method, header, upstream, address) is not looked at: that item will be
`rejected` and the others run. One pass, no copies.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import inf

from msgspec import UNSET, UnsetType

from paceline.api.errors import Invalid, TooLarge
from paceline.api.schemas import BatchBody, RateBody
from paceline.batch.runner import plan
from paceline.config.server import Server
from paceline.model import Batch, Defaults, Duration, Item, ItemRetry, Priority, Rate, Strategy, Tenant
from paceline.units import parse_duration, write_duration

DEFAULT_DEADLINE_S = 50.0
MOST = 1_000_000_000
"""Past it a count is a slip of the pen."""
SHORTEST_WINDOW_S = 0.001

_CONCURRENCY_COUNTS = (Strategy.BOUNDED, Strategy.TOKEN_BUCKET, Strategy.ADAPTIVE)
_RATE_COUNTS = (Strategy.TOKEN_BUCKET, Strategy.ADAPTIVE)
_CLASSES = list(Priority)
_UNIT = re.compile(r"[a-z][a-z0-9_-]{0,63}").fullmatch


def batch_of(body: BatchBody, tenant: Tenant, limits: Server) -> Batch:
    """The batch a body asks for.

    Raises:
        Invalid, TooLarge: it cannot be run as a whole; names the field.
    """
    items = body.requests
    if not items:
        raise Invalid("requests is empty; add at least one", field="requests")
    check_count(len(items), limits, "requests")
    check_items(items)
    check_defaults(body.defaults)
    check_retry(body.retry, "retry")
    return Batch(
        items=items,
        strategy=body.strategy,
        max_concurrency=concurrency_of(body.max_concurrency, body.strategy),
        rate=own_rate(body.rate, body.strategy),
        deadline_s=deadline_of(body.deadline, limits),
        priority=lowered(body.priority, tenant),
        halt=body.on_failure == "halt",
        retry=body.retry,
        defaults=body.defaults,
        tenant=tenant,
    )


def check_count(items: int, limits: Server, field: str) -> None:
    """Refuse more items than a batch may have."""
    if items > limits.max_items:
        raise TooLarge(
            f"{field}: {items} items are more than the {limits.max_items} of one batch; send several, "
            "or raise server.max_items",
            field=field,
        )


def check_items(items: Sequence[Item]) -> None:
    """What every item must keep to, and what they must keep to together."""
    named = dependent = False
    for index, item in enumerate(items):
        if item.id is not UNSET:
            named = True
        if item.depends_on is not UNSET or item.dependsOn is not UNSET:
            dependent = True
            if item.depends_on is not UNSET and item.dependsOn is not UNSET:
                raise Invalid(
                    f"requests[{index}] has both depends_on and dependsOn; remove one of them",
                    field=f"requests[{index}].dependsOn",
                )
        if item.json or item.body is not UNSET or item.body_base64 is not UNSET:
            _check_one_body(item, f"requests[{index}]")
        if item.timeout is not UNSET:
            seconds_of(item.timeout, "requests[%d].timeout", index)
        if item.cost is not UNSET:
            _check_cost(item.cost, "requests[%d].cost", index)
        if item.retry is not UNSET:
            check_retry(item.retry, f"requests[{index}].retry")
    if named:
        _check_ids(items)
    if dependent:
        try:
            plan(items)
        except ValueError as error:
            first = str(error).partition(" ")[0]
            raise Invalid(str(error), field=first if first.startswith("requests[") else "requests") from None


def check_defaults(defaults: Defaults) -> None:
    """What every item starts from."""
    if defaults.timeout is not UNSET:
        seconds_of(defaults.timeout, "defaults.timeout")
    if defaults.cost is not UNSET:
        _check_cost(defaults.cost, "defaults.cost")


def check_retry(retry: ItemRetry, field: str) -> None:
    """At least one attempt, and no negative number."""
    if retry.attempts is not UNSET and not 1 <= retry.attempts <= MOST:
        raise Invalid(f"{field}.attempts must be at least 1, the first one; raise it", field=f"{field}.attempts")
    if retry.throttles is not UNSET and not 0 <= retry.throttles <= MOST:
        raise Invalid(f"{field}.throttles must be 0 or more; raise it", field=f"{field}.throttles")


def concurrency_of(wanted: int | UnsetType, strategy: Strategy) -> int | None:
    """The batch's own cap on calls in flight, where it has one."""
    if wanted is UNSET:
        return None
    if not 1 <= wanted <= MOST:
        raise Invalid("max_concurrency must be 1 or more; raise it", field="max_concurrency")
    if strategy not in _CONCURRENCY_COUNTS:
        raise Invalid(
            f"max_concurrency means nothing under {strategy.value}; remove it, or use bounded", field="max_concurrency"
        )
    return wanted


def own_rate(body: RateBody | UnsetType, strategy: Strategy) -> Rate | None:
    """The batch's own rate window, where it has one."""
    if body is UNSET:
        if strategy is Strategy.TOKEN_BUCKET:
            raise Invalid('token_bucket needs a rate; add one, as in {"limit": 50, "per": "1s"}', field="rate")
        return None
    if strategy not in _RATE_COUNTS:
        raise Invalid(f"rate means nothing under {strategy.value}; remove it, or use token_bucket", field="rate")
    rate = rate_of(body, "rate")
    if strategy is Strategy.TOKEN_BUCKET and rate.unit != "requests":
        raise Invalid("the token bucket counts requests and nothing else; remove rate.unit", field="rate.unit")
    return rate


def rate_of(body: RateBody, field: str) -> Rate:
    """A rate window's values."""
    if not 0 < body.limit <= MOST:
        raise Invalid(f"{field}.limit must be above zero and at most {MOST}; correct it", field=f"{field}.limit")
    per_s = seconds_of(body.per, f"{field}.per")
    if per_s < SHORTEST_WINDOW_S:
        raise Invalid(f"{field}.per must be at least 1ms; raise it", field=f"{field}.per")
    burst = body.limit if body.burst is UNSET else body.burst
    if not 0 < burst <= body.limit:
        raise Invalid(f"{field}.burst must be above zero and not above limit; correct it", field=f"{field}.burst")
    if not _UNIT(body.unit):
        raise Invalid(f"{field}.unit must be a word like requests or tokens; correct it", field=f"{field}.unit")
    return Rate(body.limit, per_s, burst, body.unit)


def deadline_of(wanted: Duration | UnsetType, limits: Server) -> float:
    """Seconds the batch may take."""
    if wanted is UNSET:
        return min(DEFAULT_DEADLINE_S, limits.max_deadline)
    deadline_s = seconds_of(wanted, "deadline")
    if deadline_s > limits.max_deadline:
        raise Invalid(
            f"deadline is above the {write_duration(limits.max_deadline)} this service allows; shorten it, "
            "or raise server.max_deadline",
            field="deadline",
        )
    return deadline_s


def lowered(wanted: Priority, tenant: Tenant) -> Priority:
    """The priority asked for, or the highest this caller may have."""
    return max(wanted, tenant.max_priority, key=_CLASSES.index)


def seconds_of(value: Duration, field: str, index: int | None = None) -> float:
    """A duration above zero, in seconds. `field` is filled in with `index` only when there is something to say."""
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        problem = str(error)
    else:
        if seconds > 0:
            return seconds
        problem = "is zero; give it more time, or remove it"
    if index is not None:
        field %= index
    raise Invalid(f"{field} {problem}", field=field)


def _check_cost(cost: float | dict[str, float], field: str, index: int | None = None) -> None:
    if not isinstance(cost, dict):
        if 0 < cost < inf:
            return
        problem = "must be above zero; correct it"
        suffix = ""
    else:
        for unit, amount in cost.items():
            if not _UNIT(unit):
                problem, suffix = "names a unit that is not a word like requests or tokens; correct it", ""
                break
            if not (0 < amount < inf or (amount == 0 and unit != "requests")):
                problem, suffix = "must not be negative, and requests not zero; correct it", f".{unit}"
                break
        else:
            return
    if index is not None:
        field %= index
    raise Invalid(f"{field}{suffix} {problem}", field=field + suffix)


def _check_one_body(item: Item, field: str) -> None:
    bodies = [
        name
        for name, given in (
            ("json", bool(item.json)),
            ("body", item.body is not UNSET),
            ("body_base64", item.body_base64 is not UNSET),
        )
        if given
    ]
    if len(bodies) > 1:
        raise Invalid(f"{field} has {' and '.join(bodies)}; keep one of them", field=f"{field}.{bodies[1]}")


def _check_ids(items: Sequence[Item]) -> None:
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        name = str(index) if item.id is UNSET else item.id
        if (earlier := first.setdefault(name, index)) != index:
            at = index if item.id is not UNSET else earlier
            raise Invalid(
                f"requests[{earlier}] and requests[{index}] have the same id {name[:100]!r}; give each its own",
                field=f"requests[{at}].id",
            )
