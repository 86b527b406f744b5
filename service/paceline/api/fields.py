"""The values a body may hold, each checked once: durations, rates, costs, counts.

Every check raises `Wrong` with the field's name as seen from where it stands; whoever knows more puts its own name in
front with `within`.
"""

from __future__ import annotations

import re

from msgspec import UNSET, UnsetType

from paceline.api.errors import Invalid
from paceline.api.schemas import RateBody
from paceline.config.server import Server
from paceline.model import Duration, ItemRetry, Priority, Rate, Tenant
from paceline.units import parse_duration, write_duration

DEFAULT_DEADLINE_S = 50.0
MOST = 1_000_000_000
"""Past it a count is a slip of the pen."""
MOST_UNITS = 16
"""Of one cost."""
SHORTEST_WINDOW_S = 0.001
UNIT_PATTERN = r"[a-z][a-z0-9_-]{0,63}"

_UNIT = re.compile(UNIT_PATTERN).fullmatch
_CLASSES = list(Priority)


class Wrong(Exception):
    """A field that cannot be used, and what is wrong with it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def within(self, outer: str) -> Wrong:
        return Wrong(f"{outer}.{self.field}", self.problem)

    def told(self) -> Invalid:
        """As the caller gets it."""
        return Invalid(f"{self.field} {self.problem}", field=self.field)


def seconds_of(value: Duration, field: str) -> float:
    """A duration above zero, in seconds."""
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        if not isinstance(value, str) and value < 0:
            raise Wrong(field, "is negative; give it more than zero seconds") from None
        raise Wrong(field, str(error)) from None
    if seconds <= 0:
        raise Wrong(field, "is zero; give it more time, or remove it")
    return seconds


def deadline_of(wanted: Duration | UnsetType, limits: Server) -> float:
    """Seconds the whole may take."""
    if wanted is UNSET:
        return min(DEFAULT_DEADLINE_S, limits.max_deadline)
    deadline_s = seconds_of(wanted, "deadline")
    if deadline_s > limits.max_deadline:
        allowed = write_duration(limits.max_deadline)
        raise Wrong("deadline", f"is above the {allowed} this service allows; shorten it, or raise server.max_deadline")
    return deadline_s


def check_retry(retry: ItemRetry | UnsetType) -> None:
    """At least one attempt, and no negative number."""
    if retry is UNSET:
        return
    if retry.attempts is not UNSET and not 1 <= retry.attempts <= MOST:
        raise Wrong("retry.attempts", f"must be from 1, the first one, to {MOST}; correct it")
    if retry.throttles is not UNSET and not 0 <= retry.throttles <= MOST:
        raise Wrong("retry.throttles", f"must be from 0 to {MOST}; correct it")


def check_cost(cost: float | dict[str, float]) -> None:
    """Above zero; of a map, units that are words and amounts that are not negative."""
    if not isinstance(cost, dict):
        if not 0 < cost <= MOST:
            raise Wrong("cost", f"must be above zero and at most {MOST}; correct it")
        return
    if len(cost) > MOST_UNITS:
        raise Wrong("cost", f"names more than {MOST_UNITS} units; name those that a limit counts")
    for unit, amount in cost.items():
        if not _UNIT(unit):
            raise Wrong("cost", f"names the unit {unit[:40]!r}; write a word like requests or tokens")
        if not (0 < amount <= MOST or (amount == 0 and unit != "requests")):
            raise Wrong(f"cost.{unit}", f"must be from 0 to {MOST}, and requests not zero; correct it")


def rate_of(body: RateBody) -> Rate:
    """A rate window's values; the names are those within it."""
    if not 0 < body.limit <= MOST:
        raise Wrong("limit", f"must be above zero and at most {MOST}; correct it")
    per_s = seconds_of(body.per, "per")
    if per_s < SHORTEST_WINDOW_S:
        raise Wrong("per", "must be at least 1ms; raise it")
    burst = body.limit if body.burst is UNSET else body.burst
    if not 0 < burst <= body.limit:
        raise Wrong("burst", "must be above zero and not above limit; correct it")
    if not _UNIT(body.unit):
        raise Wrong("unit", "must be a word like requests or tokens; correct it")
    return Rate(body.limit, per_s, burst, body.unit)


def check_cap(wanted: int) -> int:
    """A number of calls in flight."""
    if not 1 <= wanted <= MOST:
        raise Wrong("max_concurrency", f"must be from 1 to {MOST}; correct it")
    return wanted


def lowered(wanted: Priority, tenant: Tenant) -> Priority:
    """The priority asked for, or the highest this caller may have."""
    return max(wanted, tenant.max_priority, key=_CLASSES.index)
