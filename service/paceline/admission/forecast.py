"""The gate run ahead of time: copies of gates as they stand, in virtual time, with assumed call durations.

What counts: tokens taken, who waits (and leaves at its deadline), what is in flight, pauses, what was learned. Assumed:
every call takes as long as the upstream's calls took so far and succeeds, is written at once, and nobody new comes. An
operator's pause stays.

The queue of a batch enters its gate a few at a time, so that no single look takes long; `run` yields often.

Pure: starts at a moment it is given and reads no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from heapq import heappop, heappush
from itertools import count, islice
from math import ceil, inf
from typing import Any

from paceline.admission.async_gate import TIMER_RESOLUTION_S
from paceline.admission.budget import Budget
from paceline.admission.copy_memo import CopyMemo
from paceline.admission.gate import Gate
from paceline.admission.lane_queue import BatchFlow, Waiter
from paceline.model import Cost, Rate, Verdict

_MAX_QUEUED_PER_FLOW = 64
"""Of each batch, so many wait in the gate itself and the others behind."""
_EVENTS_PER_YIELD = 32
"""Between two yields of a run."""


class Demand:
    """What is asked of one budget from a moment on, and how long each of its windows alone would need for it."""

    __slots__ = ("_requested", "_windows")

    def __init__(self, budget: Budget, now: float) -> None:
        self._requested: dict[str, float] = {}
        self._windows = [
            (
                window,
                window.earliest_possible_at(0.0, 0.0, now) - now,
                window.rate.limit - window.remaining(now, budget.transit_s),
            )
            for window in (*budget.windows, *budget.learned_windows)
        ]

    def add(self, cost: Cost) -> None:
        requested = self._requested
        for unit, amount in cost.items():
            requested[unit] = requested.get(unit, 0.0) + amount

    def min_durations_s(self) -> Iterator[tuple[float, Rate]]:
        for window, smooth_s, tokens_used in self._windows:
            rate, requested = window.rate, self._requested.get(window.rate.unit, 0.0)
            if requested:
                full_windows = ceil((tokens_used + requested) / rate.limit - 1e-9) - 1
                yield max(smooth_s + requested * window.emission_interval_s, full_windows * rate.per_s), rate


class Simulation:
    """Several gates on one clock, which starts at `now`. `on_settled` is told of every call that is over."""

    def __init__(self, now: float, on_settled: Callable[[Waiter], None]) -> None:
        self.now = now
        self.on_settled = on_settled
        self.memo = CopyMemo()
        self.stop_requested = False
        """Set it, and a run stops."""
        self._dispatching = False
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._sequence = count()
        self._pending_dispatches: dict[SimulatedGate, None] = {}

    def add_gate(
        self, gate: Gate, call_duration_s: float, keys: Collection[str], *, reuses_connections: bool = True
    ) -> SimulatedGate:
        """Copy a gate as it stands, with the budgets of `keys`; its calls take `call_s`, on kept connections or not."""
        return SimulatedGate(self, gate, call_duration_s, keys, reuses_connections)

    def schedule(self, moment: float, callback: Callable[[Any], None], argument: object = None) -> None:
        """Do something at a moment, or now where that is past."""
        heappush(self._events, (moment, next(self._sequence), callback, argument))

    def schedule_dispatch(self, simulated_gate: SimulatedGate) -> None:
        """Something changed: look who may go, before anything else does. Looks do not nest, as in the gates' shells."""
        self._pending_dispatches[simulated_gate] = None
        if not self._dispatching:
            self._dispatching = True
            while self._pending_dispatches:
                simulated_gate = next(iter(self._pending_dispatches))
                del self._pending_dispatches[simulated_gate]
                simulated_gate.dispatch()
            self._dispatching = False

    def run(self) -> Iterator[None]:
        """Let time pass until it is `over`, or until nothing more can happen."""
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
    """One gate's copy on its way ahead."""

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
        """How many went, of everybody, while somebody `watched` was left."""
        self.tracks_demand = False
        self._simulation = simulation
        self._memo = simulation.memo
        self._overflow: dict[BatchFlow, deque[Waiter]] = {}
        self._demands: dict[Budget, Demand] = {}
        self._timer_at = inf
        copied_before = len(self._memo.flows)
        self.gate = gate.copy(self._memo, keys, lambda: simulation.schedule_dispatch(self))
        self.gate.min_latency_s = self.gate.min_latency_s or call_duration_s
        self.gate.queued = 0
        self._has_header_limits = any(budget.header_limits for budget in self.gate.budgets)
        for flow, clone in list(islice(self._memo.flows.items(), copied_before, None)):
            self._copy_waiters(flow, clone)
        for budget in self.gate.budgets:
            for grant in budget.unsettled_grants:
                simulation.schedule(simulation.now, self._resume_in_flight, grant)
        simulation.schedule(simulation.now, simulation.schedule_dispatch, self)

    def track_demand(self, flow: BatchFlow) -> None:
        """Count what is spent of this batch's budget until `watched` is false again."""
        self.tracks_demand = True
        budget = flow.lane_queue.budget
        if budget not in self._demands:
            self._demands[budget] = Demand(budget, self._simulation.now)

    def min_durations_s(self) -> Iterator[tuple[float, Rate]]:
        """How long each window alone would have kept what went through it."""
        for demand in self._demands.values():
            yield from demand.min_durations_s()

    def offer(self, waiter: Waiter) -> None:
        """Somebody joins the queue."""
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
            simulation.schedule_dispatch(self)  # tokens that were only waited for because they were not written

    def _copy_waiters(self, flow: BatchFlow, clone: BatchFlow) -> None:
        """Those who wait now: the first at the gate, the others behind; all leave at their deadline."""
        if not flow.waiters:
            return
        for waiter in islice(flow.waiters, _MAX_QUEUED_PER_FLOW):
            clone.waiters[waiter.copy(clone, self._memo)] = None
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
            waiter = waiter.copy(flow, self._memo)
        if self.gate.offer(waiter, self._simulation.now):
            self._simulation.schedule_dispatch(self)

    def _adjust_queued_amounts(self, flow: BatchFlow, waiter: Waiter, sign: int) -> None:
        """Those behind count as queued too, where somebody asks: what remains by rate headers is spent by it."""
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
        """A call that is in flight already: it takes what is left of its time."""
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
