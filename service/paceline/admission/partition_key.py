"""Which budget of its upstream a request draws on, and its batch's place in that budget's queue."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from paceline.admission.budget_table import DEFAULT_KEY
from paceline.admission.gate import Gate
from paceline.admission.lane_queue import BatchFlow, Lane
from paceline.admission.permit_pool import PermitPool
from paceline.errors import Overloaded
from paceline.model import Priority, Request, Tenant

PartitionKeyFunction = Callable[[Request], str]

_MAX_FLOWS = 1000


def partition_by(rule: str, base_path: str) -> PartitionKeyFunction:
    """The key of a request under `upstream`, `host`, `header:NAME` or `path:N` (N segments after the base path).

    A header's value may be a credential, so the key holds a short hash of it.
    """
    kind, _, detail = rule.partition(":")
    if kind == "host":
        return lambda request: f"host:{request.url.authority}"
    if kind == "header":
        return lambda request: f"header:{detail}:{_hash_header(request, detail)}"
    if kind == "path":
        depth, skip = int(detail), len(base_path)
        return lambda request: "path:" + _path_prefix(request.url.target[skip:], depth)
    return lambda request: DEFAULT_KEY


class FlowTable:
    """One batch's places before one upstream, one for each budget it draws on."""

    def __init__(
        self,
        gate: Gate,
        lane: Lane,
        priority: Priority,
        tenant: Tenant,
        batch_pool: PermitPool | None,
        partition_key_of: PartitionKeyFunction,
    ) -> None:
        self._gate = gate
        self._lane = lane
        self._priority = priority
        self._tenant = tenant
        self._batch_pool = batch_pool
        self._partition_key_of = partition_key_of
        self._flows: dict[str, BatchFlow] = {}

    def get_or_open(self, request: Request) -> BatchFlow:
        """The place this request waits in.

        Raises:
            Overloaded: too many partitions are busy.
        """
        key = self._partition_key_of(request)
        flow = self._flows.get(key)
        if flow is None or flow.lane_queue.budget.is_evicted:
            flow = self._open_flow(key)
        return flow

    def _open_flow(self, key: str) -> BatchFlow:
        if len(self._flows) >= _MAX_FLOWS:
            self._flows = {known: flow for known, flow in self._flows.items() if flow.waiters}
        tenant = self._tenant
        try:
            flow = self._gate.open_flow(
                self._lane, self._priority, tenant.name, self._batch_pool, weight=tenant.weight, key=key
            )
        except LookupError as error:
            raise Overloaded(f"{error}; try again later, or partition this upstream less finely") from None
        self._flows[key] = flow
        return flow


def _hash_header(request: Request, name: str) -> str:
    values = [value for key, value in request.headers if key == name]
    return sha256("\n".join(values).encode("utf-8", "surrogatepass")).hexdigest()[:12] if values else "none"


def _path_prefix(target: str, depth: int) -> str:
    segments = target.partition("?")[0].lstrip("/").split("/")
    return "/" + "/".join(segments[:depth])
