"""The simulation of a batch in virtual time, on copies of its gates.

The order is that of `batch/runner.py`, `batch/run.py` and `upstream/pipeline.py`: an item is ready when its turn has
come and its dependencies are done; then semaphore, token bucket, admission. Every call succeeds, so retries are not
simulated; no item is ended at the deadline, but those that end after it are counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import inf

from paceline.admission.forecast import SimulatedGate, Simulation
from paceline.admission.lane_queue import BatchFlow, Waiter
from paceline.batch.request_builder import RequestBuilder
from paceline.batch.simulated_token_bucket import SimulatedTokenBucket
from paceline.errors import Rejected
from paceline.model import Batch, Cost, Item, Receipt, Strategy
from paceline.upstream.pipeline import concurrency_cap_of, create_permit_pool, lane_of
from paceline.upstream.registry import UpstreamRegistry
from paceline.upstream.upstream import Upstream

_STARTS_PER_YIELD = 64
"""Items started before `run` yields to its caller."""


class UpstreamResult:
    """The simulated result of one upstream's items; all undeclared hosts share one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.items = self.missed_deadlines = self.rejected = 0
        self.unfinished = 0
        """Items that have neither ended nor been rejected."""
        self.finished_at: float | None = None
        self.receipt = Receipt()
        """The sum of all its items' waits."""
        self.simulated_gates: list[SimulatedGate] = []


class _Destination:
    """Where some of the items go, and what each costs."""

    __slots__ = ("cost", "flow", "partition_key", "result", "simulated_gate", "upstream")

    def __init__(self, upstream: Upstream, partition_key: str, cost: Cost, result: UpstreamResult) -> None:
        self.upstream, self.partition_key, self.cost, self.result = upstream, partition_key, cost, result
        self.simulated_gate: SimulatedGate | None = None
        self.flow: BatchFlow | None = None
        """None if such an item cannot be sent."""


class BatchSimulation:
    """Call `add_item` for every item, then `start`, exhaust `run`, and read `results`.

    `lookahead`: the maximum number of items in progress, as in a run from a file. `call_s`: how long every call takes;
    by default, the mean of each upstream's calls so far.
    """

    def __init__(
        self, registry: UpstreamRegistry, batch: Batch, lookahead: float = inf, call_s: float | None = None
    ) -> None:
        self.results: dict[str, UpstreamResult] = {}
        self.rejected = 0
        self.halted = False
        self.rate_units_used = 0.0
        """Units of the batch's own rate that were used."""
        self.semaphore_wait_s = 0.0
        """How long items waited for the batch's own semaphore."""
        self.token_bucket: SimulatedTokenBucket | None = None
        self.began_at = 0.0
        self.batch = batch
        self._request_builder = RequestBuilder(registry, batch, inf)
        self._call_s = call_s
        self._permit_pool = create_permit_pool(batch)
        self._destinations: dict[tuple[Upstream, str, object], _Destination] = {}
        self._item_destinations: list[_Destination | None] = []
        self._free_slots = 1 if batch.strategy is Strategy.SEQUENTIAL else lookahead
        self._semaphore_permits = concurrency_cap_of(batch)
        self._semaphore_queue: deque[tuple[int, float]] = deque()
        self._result_by_flow: dict[BatchFlow, UpstreamResult] = {}
        self._unfinished = 0
        self._unmet_counts: dict[int, int] = {}
        self._dependents: dict[int, list[int]] = {}
        self._dependency_rejected: set[int] = set()
        """Items that depend on one that was rejected."""
        self._awaiting_dependencies: set[int] = set()
        """Items whose turn has come and whose dependencies are not done."""
        self._index_by_waiter: dict[Waiter, int] = {}

    def add_item(self, item: Item) -> None:
        """Add the next item."""
        try:
            upstream, request = self._request_builder.build(item)
        except Rejected:
            self._item_destinations.append(None)
            return
        partition_key, cost = upstream.partition_key_of(request), request.cost
        destination_key = (upstream, partition_key, cost["requests"] if len(cost) == 1 else frozenset(cost.items()))
        destination = self._destinations.get(destination_key)
        if destination is None:
            result = self.results.setdefault(upstream.name, UpstreamResult(upstream.name))
            destination = self._destinations[destination_key] = _Destination(upstream, partition_key, cost, result)
        destination.result.items += 1
        self._item_destinations.append(destination)

    def add_invalid_item(self) -> None:
        """Count a line that is no item."""
        self._item_destinations.append(None)

    def start(self, now: float, dependencies: Mapping[int, Sequence[int]], order: Sequence[int] | None = None) -> None:
        """Copy the gates in their present state; from here on time is virtual."""
        self.began_at = now
        self.simulation = Simulation(now, self._on_settled)
        self._deadline = now + self.batch.deadline_s
        if self.batch.strategy is Strategy.TOKEN_BUCKET:
            assert self.batch.rate is not None
            self.token_bucket = SimulatedTokenBucket(self.batch.rate, self.simulation)
        self._unmet_counts = {index: len(set(wanted)) for index, wanted in dependencies.items()}
        for index, wanted in dependencies.items():
            for need in set(wanted):
                self._dependents.setdefault(need, []).append(index)
        self._copy_gates()
        self._order = iter(range(len(self._item_destinations)) if order is None else order)
        self._unfinished = len(self._item_destinations)
        self.simulation.stop_requested = not self._unfinished

    def run(self) -> Iterator[None]:
        """Simulate every item to its end, or until none can proceed."""
        while self._free_slots > 0 and self._start_next_items():
            yield
        yield from self.simulation.run()
        if self.halted:
            for result in self.results.values():
                result.rejected += result.unfinished
                result.unfinished = 0
            self.rejected += self._unfinished
        else:
            for result in self.results.values():
                result.missed_deadlines += result.unfinished

    def _copy_gates(self) -> None:
        batch, tenant = self.batch, self.batch.tenant
        partition_keys: dict[Upstream, set[str]] = {}
        for destination in self._destinations.values():
            partition_keys.setdefault(destination.upstream, set()).add(destination.partition_key)
        simulated_gates: dict[Upstream, SimulatedGate] = {}
        flows: dict[tuple[Upstream, str], BatchFlow] = {}
        for upstream, wanted in partition_keys.items():
            async_gate = upstream.async_gate
            mean_latency = async_gate.mean_latency
            call_s = mean_latency.mean_s if self._call_s is None else self._call_s
            simulated_gates[upstream] = self.simulation.add_gate(
                async_gate.gate, call_s, wanted, reuses_connections=mean_latency.mostly_reuses_connections
            )
            self.results[upstream.name].simulated_gates.append(simulated_gates[upstream])
        for destination in self._destinations.values():
            gate = simulated_gates[destination.upstream].gate
            destination.result.unfinished = destination.result.items
            if gate.budgets.unpayable_reason(destination.cost, self._permit_pool) is not None or self._exceeds_bucket(
                destination.cost
            ):
                continue
            flow_key = (destination.upstream, destination.partition_key)
            if flow_key not in flows:
                try:
                    flows[flow_key] = gate.open_flow(
                        lane_of(batch),
                        batch.priority,
                        tenant.name,
                        self._permit_pool,
                        weight=tenant.weight,
                        key=destination.partition_key,
                    )
                except LookupError:  # the maximum number of partitions is busy: it would be rejected
                    continue
                self._result_by_flow[flows[flow_key]] = destination.result
                simulated_gates[destination.upstream].track_demand(flows[flow_key])
            destination.flow, destination.simulated_gate = flows[flow_key], simulated_gates[destination.upstream]

    def _exceeds_bucket(self, cost: Cost) -> bool:
        return self.token_bucket is not None and cost["requests"] > self.token_bucket.rate.limit

    def _start_next_items(self, max_items: int = _STARTS_PER_YIELD) -> bool:
        """Start up to `max_items` of the next items while slots are free; False when there are no more."""
        for _ in range(max_items):
            if self._free_slots <= 0 or self.halted:
                break
            index = next(self._order, None)
            if index is None:
                return False
            self._free_slots -= 1
            if self._unmet_counts.get(index):
                self._awaiting_dependencies.add(index)
            else:
                self._start_item(index)
        return not self.halted

    def _start_item(self, index: int) -> None:
        """Start an item whose turn has come and whose dependencies are done."""
        destination = self._item_destinations[index]
        if destination is None or destination.flow is None or index in self._dependency_rejected:
            self._reject_item(index)
        elif self._semaphore_permits is None:
            self._enter_token_bucket(index)
        elif self._semaphore_permits:
            self._semaphore_permits -= 1
            self._enter_token_bucket(index)
        else:
            self._semaphore_queue.append((index, self.simulation.now))

    def _enter_token_bucket(self, index: int) -> None:
        destination = self._item_destinations[index]
        assert destination is not None
        if self.token_bucket is None:
            self._enter_gate(destination, index)
        else:
            self.token_bucket.acquire(destination.cost["requests"], partial(self._enter_gate, destination, index))

    def _enter_gate(self, destination: _Destination, index: int) -> None:
        assert destination.flow is not None
        assert destination.simulated_gate is not None
        if self.batch.rate is not None:
            self.rate_units_used += destination.cost.get(self.batch.rate.unit, 0.0)
        waiter = Waiter(destination.flow, destination.cost, destination.result.receipt)
        if index in self._dependents:
            self._index_by_waiter[waiter] = index
        destination.simulated_gate.offer(waiter)

    def _reject_item(self, index: int) -> None:
        """Reject an item that would never be sent, and with it all that depends on it."""
        destination = self._item_destinations[index]
        self.rejected += 1
        if destination is not None:
            destination.result.rejected += 1
            destination.result.unfinished -= 1
        self._unfinished -= 1
        self._free_slots += 1
        if self.batch.halt:
            self.halted = True
        self.simulation.stop_requested = self.halted or not self._unfinished
        self._release_dependents(index, rejected=True)

    def _on_settled(self, waiter: Waiter) -> None:
        result = self._result_by_flow.get(waiter.flow)
        if result is None:
            return  # an item of another batch
        now = self.simulation.now
        result.finished_at = now
        result.unfinished -= 1
        if not result.unfinished:
            for simulated_gate in result.simulated_gates:
                simulated_gate.tracks_demand = False
        if now > self._deadline:
            result.missed_deadlines += 1
        self._unfinished -= 1
        if not self._unfinished:
            self.simulation.stop_requested = True
        self._free_slots += 1
        if self._semaphore_permits is not None:
            self._semaphore_permits += 1
            if self._semaphore_queue:
                index, queued_at = self._semaphore_queue.popleft()
                self.semaphore_wait_s += now - queued_at
                self._semaphore_permits -= 1
                self._enter_token_bucket(index)
        if self._index_by_waiter and (completed_index := self._index_by_waiter.pop(waiter, None)) is not None:
            self._release_dependents(completed_index, rejected=False)
        while self._free_slots > 0 and self._free_slots < inf and self._start_next_items(1):
            pass

    def _release_dependents(self, index: int, *, rejected: bool) -> None:
        """Release the items that depend on this one, unless another dependency is open."""
        for dependent in self._dependents.get(index, ()):
            if rejected:
                self._dependency_rejected.add(dependent)
            self._unmet_counts[dependent] -= 1
            if not self._unmet_counts[dependent] and dependent in self._awaiting_dependencies:
                self._awaiting_dependencies.discard(dependent)
                self.simulation.schedule(self.simulation.now, self._start_item, dependent)
