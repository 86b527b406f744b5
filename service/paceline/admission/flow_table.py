"""The flows of one batch before one upstream, by partition key."""

from __future__ import annotations

from paceline.admission.gate import Gate
from paceline.admission.lane import Lane
from paceline.admission.lane_queue import BatchFlow
from paceline.admission.partition_key import PartitionKeyFunction
from paceline.admission.permit_pool import PermitPool
from paceline.errors import Overloaded
from paceline.model import Priority, Request, Tenant

_MAX_FLOWS = 1000


class FlowTable:
    """Opens and keeps one flow for each budget that a batch uses."""

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
        """Return the flow that this request waits in.

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
