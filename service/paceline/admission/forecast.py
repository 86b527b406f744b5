"""Discrete-event simulation of gates: copies of the gates as they are, in virtual time, with assumed call durations.

Taken into account: tokens taken, waiters (which leave at their deadlines), calls in flight, pauses, what was learned.
Assumed: every call is written at once, takes as long as the upstream's calls took so far, and succeeds; no new calls
arrive; an operator's pause stays.

The waiters of a batch enter their gate a few at a time, so that no single dispatch takes long; `run` yields often.

Pure: starts at a moment that it is given and reads no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from heapq import heappop, heappush
from itertools import count, islice
from math import inf
from typing import Any

from paceline.admission.async_gate import TIMER_RESOLUTION_S
from paceline.admission.budget import Budget
from paceline.admission.demand import Demand
from paceline.admission.gate import Gate
from paceline.admission.lane_queue import BatchFlow, Waiter
from paceline.model import Rate, Verdict
from paceline.rate.window import CopyMemo

_MAX_QUEUED_PER_FLOW = 64
"""Of each batch, the number of waiters in the gate itself; the others wait behind."""
_EVENTS_PER_YIELD = 32
"""Events between two yields of a run."""


class Simulation:
    """Several gates on one clock, which starts at `now`. `on_settled` is called for every call that is over."""

    def __init__(self, now: float, on_settled: Callable[[Waiter], None]) -> None:
        self.now = now
        self.on_settled = on_settled
        self.memo: CopyMemo = {}
        self.stop_requested = False
        """Set to stop the run."""
        self._dispatching = False
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._sequence = count()
        self._pending_dispatches: dict[SimulatedGate, None] = {}

    def add_gate(
        self, gate: Gate, call_duration_s: float, keys: Collection[str], *, reuses_connections: bool = True
    ) -> SimulatedGate:
        """Copy a gate as it is, with the budgets of `keys`; its calls take `call_duration_s`."""
        return SimulatedGate(self, gate, call_duration_s, keys, reuses_connections)

    def schedule(self, moment: float, callback: Callable[[Any], None], argument: object = None) -> None:
        """Call back at a moment, or now where that is past."""
        heappush(self._events, (moment, next(self._sequence), callback, argument))

    def schedule_dispatch(self, simulated_gate: SimulatedGate) -> None:
        """Dispatch a gate before any other event. Dispatches do not nest, as in `AsyncGate`."""
        self._pending_dispatches[simulated_gate] = None
        if not self._dispatching:
            self._dispatching = True
            while self._pending_dispatches:
                simulated_gate = next(iter(self._pending_dispatches))
                del self._pending_dispatches[simulated_gate]
                simulated_gate.dispatch()
            self._dispatching = False

    def run(self) -> Iterator[None]:
        """Process events until `stop_requested`, or until none is left."""
        events, steps = self._events, 0
        while events and not self.stop_requested:
            moment, _, callback, argument = heappop(events)
            if moment > self.now:
                self.now = moment
            callback(argument)
            steps += 1
            if steps % _EVENTS_PER_YIELD == 0:
                yield


class SimulatedGate:
    """The copy of one gate in a simulation."""

    def __init__(
        self,
        simulation: Simulation,
        gate: Gate,
        call_duration_s: float,
        keys: Collection[str],
        reuses_connections: bool,
    ) -> None:
        self.call_duration_s = call_duration_s
        self._reuses_connections = reuses_connections
        self.grant_count = 0
        """Grants to all batches while `tracks_demand`."""
        self.tracks_demand = False
        self._simulation = simulation
        self._memo = simulation.memo
        self._overflow: dict[BatchFlow, deque[Waiter]] = {}
        self._demands: dict[Budget, Demand] = {}
        self._timer_at = inf
        self.gate = gate.copy(self._memo, keys, lambda: simulation.schedule_dispatch(self))
        self.gate.min_latency_s = self.gate.min_latency_s or call_duration_s
        self.gate.queued = 0
        self._has_header_limits = any(budget.header_limits for budget in self.gate.budgets)
        for lane_queue in gate.budgets.iter_lane_queues():
            for flow in lane_queue.flows:
                self._copy_waiters(flow, self._memo[flow])
        for budget in self.gate.budgets:
            for grant in budget.unsettled_grants:
                simulation.schedule(simulation.now, self._resume_in_flight, grant)
        simulation.schedule(simulation.now, simulation.schedule_dispatch, self)

    def track_demand(self, flow: BatchFlow) -> None:
        """Count what is used of this batch's budget while `tracks_demand`."""
        self.tracks_demand = True
        budget = flow.lane_queue.budget
        if budget not in self._demands:
            self._demands[budget] = Demand(budget, self._simulation.now)

    def min_durations_s(self) -> Iterator[tuple[float, Rate]]:
        """Yield the seconds that each window alone would have needed for what went through it."""
        for demand in self._demands.values():
            yield from demand.min_durations_s()

    def offer(self, waiter: Waiter) -> None:
        """Queue a waiter, in the gate or behind it."""
        overflow = self._overflow.get(waiter.flow)
        if overflow or len(waiter.flow.waiters) >= _MAX_QUEUED_PER_FLOW:
            if overflow is None:
                overflow = self._overflow[waiter.flow] = deque()
            overflow.append(waiter)
            self._adjust_queued_amounts(waiter.flow, waiter, 1)
        else:
            self._offer_to_gate(waiter)

    def dispatch(self) -> None:
        """Grant all that may go now; their calls begin."""
        simulation, gate, overflows, finish_call = self._simulation, self.gate, self._overflow, self._finish_call
        now = simulation.now
        finishes_at = now + self.call_duration_s
        granted, next_wakeup_at = gate.dispatch(now)
        if gate.infeasible_waiters:
            for waiter in gate.infeasible_waiters:
                if overflow := overflows.get(waiter.flow):
                    self._offer_from_overflow(waiter.flow, overflow)
            gate.infeasible_waiters = []
        dispatch_again = False
        for waiter in granted:
            if gate.mark_written(waiter, now):
                dispatch_again = True
            simulation.schedule(finishes_at if finishes_at < waiter.deadline else waiter.deadline, finish_call, waiter)
            flow = waiter.flow
            if overflows and (overflow := overflows.get(flow)):
                self._offer_from_overflow(flow, overflow)
            if self.tracks_demand:
                self.grant_count += 1
                if (demand := self._demands.get(flow.lane_queue.budget)) is not None:
                    demand.add(waiter.cost)
        if next_wakeup_at < inf and next_wakeup_at != self._timer_at:
            self._timer_at = next_wakeup_at
            simulation.schedule(max(next_wakeup_at, now + TIMER_RESOLUTION_S), self._on_timer, next_wakeup_at)
        if dispatch_again:
            simulation.schedule_dispatch(self)  # tokens whose time of return was unknown until they were written

    def _copy_waiters(self, flow: BatchFlow, clone: BatchFlow) -> None:
        """Copy the first waiters into the gate and keep the others behind it; all leave at their deadlines."""
        if not flow.waiters:
            return
        for waiter in islice(flow.waiters, _MAX_QUEUED_PER_FLOW):
            clone.waiters[waiter.copy(self._memo)] = None
        self.gate.queued += len(clone.waiters)
        if len(flow.waiters) > _MAX_QUEUED_PER_FLOW:
            self._overflow[clone] = deque(islice(flow.waiters, _MAX_QUEUED_PER_FLOW, None))
        self._schedule_expiry(next(reversed(flow.waiters)).deadline, clone)

    def _schedule_expiry(self, deadline: float, flow: BatchFlow) -> None:
        if deadline < inf:
            self._simulation.schedule(deadline, self._expire, flow)

    def _expire(self, flow: BatchFlow) -> None:
        now = self._simulation.now
        overflow = self._overflow.pop(flow, None) or deque()
        for waiter in overflow:
            if waiter.deadline <= now:
                self._adjust_queued_amounts(flow, waiter, -1)
        overflow = deque(waiter for waiter in overflow if waiter.deadline > now)
        for waiter in [waiter for waiter in flow.waiters if waiter.deadline <= now]:
            self.gate.withdraw(waiter, now)
        if overflow:
            self._overflow[flow] = overflow
            for _ in range(min(len(overflow), _MAX_QUEUED_PER_FLOW - len(flow.waiters))):
                self._offer_from_overflow(flow, overflow)
        remaining = [*flow.waiters, *overflow]
        if remaining:
            self._schedule_expiry(max(waiter.deadline for waiter in remaining), flow)
        self._simulation.schedule_dispatch(self)

    def _offer_from_overflow(self, flow: BatchFlow, overflow: deque[Waiter]) -> None:
        waiter = overflow.popleft()
        if self._has_header_limits:
            self._adjust_queued_amounts(flow, waiter, -1)
        if waiter.flow is not flow:
            waiter = waiter.copy(self._memo)
        if self.gate.offer(waiter, self._simulation.now):
            self._simulation.schedule_dispatch(self)

    def _adjust_queued_amounts(self, flow: BatchFlow, waiter: Waiter, sign: int) -> None:
        """Count the waiters behind the gate as queued too, where rate headers advertise a limit that depends on it."""
        if not self._has_header_limits:
            return
        queued = flow.lane_queue.budget.queued_amounts
        for unit, amount in waiter.cost.items():
            queued[unit] = queued.get(unit, 0.0) + sign * amount

    def _offer_to_gate(self, waiter: Waiter) -> None:
        if self.gate.offer(waiter, self._simulation.now):
            self._simulation.schedule_dispatch(self)

    def _on_timer(self, moment: float) -> None:
        if moment == self._timer_at:
            self._timer_at = inf
            self._simulation.schedule_dispatch(self)

    def _resume_in_flight(self, grant: Waiter) -> None:
        """Schedule the end of a call that is in flight already, after the rest of its duration."""
        now = self._simulation.now
        if grant.written_at is None:
            self.gate.mark_written(grant, now)
            self._simulation.schedule_dispatch(self)
        assert grant.granted_at is not None
        self._simulation.schedule(
            min(max(now, grant.granted_at + self.call_duration_s), grant.deadline), self._finish_call, grant
        )

    def _finish_call(self, waiter: Waiter) -> None:
        now, gate = self._simulation.now, self.gate
        if now < waiter.deadline:
            gate.settle(waiter, Verdict.SUCCESS, now, answered_at=now, reused=self._reuses_connections, healthy=True)
        else:
            gate.settle(waiter, Verdict.IGNORED, now)
        if gate.has_ready_queue or self._timer_at <= now:
            self._simulation.schedule_dispatch(self)
        self._simulation.on_settled(waiter)
