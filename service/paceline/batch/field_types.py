"""The values a body may hold, each checked once: durations, rates, costs, counts.

Every check raises a `FieldError` with the field's name as seen from the object that holds it; the caller prefixes that
object's own path.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from paceline.batch.batch_request import RateSpec
from paceline.batch.input_errors import FieldError
from paceline.model import Duration, ItemRetry, Priority, Rate, Tenant
from paceline.units import format_duration, parse_duration

if TYPE_CHECKING:  # not at run time: a command that checks its flags starts without pydantic
    from paceline.config.server import ServerConfig

DEFAULT_DEADLINE_S = 50.0
MAX_VALUE = 1_000_000_000
"""Past it a count is a slip of the pen."""
MAX_COST_UNITS = 16
"""Of one cost."""
MIN_WINDOW_S = 0.001
UNIT_PATTERN = r"[a-z][a-z0-9_-]{0,63}"

_match_unit = re.compile(UNIT_PATTERN).fullmatch
_PRIORITIES = list(Priority)


def parse_seconds(value: Duration, field: str) -> float:
    """A duration above zero, in seconds."""
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        if not isinstance(value, str) and value < 0:
            raise FieldError(field, "is negative; give it more than zero seconds") from None
        raise FieldError(field, str(error)) from None
    if seconds <= 0:
        raise FieldError(field, "is zero; give it more time, or remove it")
    return seconds


def parse_deadline(value: Duration | UnsetType, limits: ServerConfig) -> float:
    """Seconds the whole may take."""
    if value is UNSET:
        return min(DEFAULT_DEADLINE_S, limits.max_deadline)
    deadline_s = parse_seconds(value, "deadline")
    if deadline_s > limits.max_deadline:
        allowed = format_duration(limits.max_deadline)
        raise FieldError(
            "deadline", f"is above the {allowed} this service allows; shorten it, or raise server.max_deadline"
        )
    return deadline_s


def check_retry(retry: ItemRetry | UnsetType) -> None:
    """At least one attempt, and no negative number."""
    if retry is UNSET:
        return
    if retry.attempts is not UNSET and not 1 <= retry.attempts <= MAX_VALUE:
        raise FieldError("retry.attempts", f"must be from 1, the first one, to {MAX_VALUE}; correct it")
    if retry.throttles is not UNSET and not 0 <= retry.throttles <= MAX_VALUE:
        raise FieldError("retry.throttles", f"must be from 0 to {MAX_VALUE}; correct it")


def check_cost(cost: float | dict[str, float]) -> None:
    """Above zero; of a map, units that are words and amounts that are not negative."""
    if not isinstance(cost, dict):
        if not 0 < cost <= MAX_VALUE:
            raise FieldError("cost", f"must be above zero and at most {MAX_VALUE}; correct it")
        return
    if len(cost) > MAX_COST_UNITS:
        raise FieldError("cost", f"names more than {MAX_COST_UNITS} units; name those that a limit counts")
    for unit, amount in cost.items():
        if not _match_unit(unit):
            raise FieldError("cost", f"names the unit {unit[:40]!r}; write a word like requests or tokens")
        if not (0 < amount <= MAX_VALUE or (amount == 0 and unit != "requests")):
            raise FieldError(f"cost.{unit}", f"must be from 0 to {MAX_VALUE}, and requests not zero; correct it")


def parse_rate(body: RateSpec) -> Rate:
    """A rate window's values; the names are those within it."""
    if not 0 < body.limit <= MAX_VALUE:
        raise FieldError("limit", f"must be above zero and at most {MAX_VALUE}; correct it")
    per_s = parse_seconds(body.per, "per")
    if per_s < MIN_WINDOW_S:
        raise FieldError("per", "must be at least 1ms; raise it")
    burst = body.limit if body.burst is UNSET else body.burst
    if not 0 < burst <= body.limit:
        raise FieldError("burst", "must be above zero and not above limit; correct it")
    if not _match_unit(body.unit):
        raise FieldError("unit", "must be a word like requests or tokens; correct it")
    return Rate(body.limit, per_s, burst, body.unit)


def check_max_concurrency(value: int) -> int:
    """A number of calls in flight."""
    if not 1 <= value <= MAX_VALUE:
        raise FieldError("max_concurrency", f"must be from 1 to {MAX_VALUE}; correct it")
    return value


def cap_priority(requested: Priority, tenant: Tenant) -> Priority:
    """The priority asked for, or the highest this caller may have."""
    return max(requested, tenant.max_priority, key=_PRIORITIES.index)
