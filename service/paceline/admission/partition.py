"""Which budget of its upstream a request draws on, and its batch's place in that budget's queue."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from paceline.admission.allowance import Allowance
from paceline.admission.budgets import WHOLE
from paceline.admission.gate import Gate
from paceline.admission.lineup import BatchFlow, Lane
from paceline.errors import Overloaded
from paceline.model import Priority, Request, Tenant

KeyOf = Callable[[Request], str]

_MOST_FLOWS = 1000


def partition_by(rule: str, base_path: str) -> KeyOf:
    """The key of a request under `upstream`, `host`, `header:NAME` or `path:N` (N segments after the base path).

    A header's value may be a credential, so the key holds a short hash of it.
    """
    kind, _, detail = rule.partition(":")
    if kind == "host":
        return lambda request: f"host:{request.url.authority}"
    if kind == "header":
        return lambda request: f"header:{detail}:{_hashed(request, detail)}"
    if kind == "path":
        depth, skip = int(detail), len(base_path)
        return lambda request: "path:" + _prefix(request.url.target[skip:], depth)
    return lambda request: WHOLE


class Places:
    """One batch's places before one upstream, one for each budget it draws on."""

    def __init__(
        self, gate: Gate, lane: Lane, priority: Priority, tenant: Tenant, own: Allowance | None, key_of: KeyOf
    ) -> None:
        self._gate = gate
        self._lane = lane
        self._priority = priority
        self._tenant = tenant
        self._own = own
        self._key_of = key_of
        self._flows: dict[str, BatchFlow] = {}

    def of(self, request: Request) -> BatchFlow:
        """The place this request waits in.

        Raises:
            Overloaded: too many partitions are busy.
        """
        key = self._key_of(request)
        flow = self._flows.get(key)
        if flow is None or flow.lineup.budget.dropped:
            flow = self._open(key)
        return flow

    def _open(self, key: str) -> BatchFlow:
        if len(self._flows) >= _MOST_FLOWS:
            self._flows = {known: flow for known, flow in self._flows.items() if flow.waiters}
        tenant = self._tenant
        try:
            flow = self._gate.open(self._lane, self._priority, tenant.name, self._own, weight=tenant.weight, key=key)
        except LookupError as error:
            raise Overloaded(f"{error}; try again later, or partition this upstream less finely") from None
        self._flows[key] = flow
        return flow


def _hashed(request: Request, name: str) -> str:
    values = [value for key, value in request.headers if key == name]
    return sha256("\n".join(values).encode("utf-8", "surrogatepass")).hexdigest()[:12] if values else "none"


def _prefix(target: str, depth: int) -> str:
    segments = target.partition("?")[0].lstrip("/").split("/")
    return "/" + "/".join(segments[:depth])
