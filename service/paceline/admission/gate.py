"""The gate of one upstream: which attempts may go now, and when to dispatch again.

* A waiter is granted when, at one moment, nothing is paused, a permit is free and every rate window of its budget has
  its tokens. Permit and tokens are taken together, so no waiter holds one while it waits for the other.
* What the operator declared binds all calls. What was learned (throttle pauses, the adaptive limit) binds the adaptive
  lane only, but every call contributes to it.
* Free permits go to the classes 100 : 10 : 1 across budgets, and in turn to the budgets of a class. Within a budget its
  queue decides. A budget that cannot pay blocks no other budget.
* The head of a queue is never skipped for a cheaper waiter behind it. A class or batch that may not go now (bulk
  without a spare permit, a batch at its own cap) blocks no other.
* A grant is settled exactly once. One that was never written returns permit and tokens; one that was written keeps its
  tokens until the upstream no longer counts it.

Pure: time is an argument and nothing here waits; `async_gate.py` is the asyncio side. `budget_table.py` holds the
budgets and their queues, `run_queue.py` which queue is ready, `permit_scheduler.py` which of these gets a permit,
`early_rejection.py` which waiters need not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import copy
from math import inf

from paceline.admission.budget_table import DEFAULT_KEY, BudgetTable
from paceline.admission.lane import Lane
from paceline.admission.lane_queue import BatchFlow, LaneQueue, QueueState, Waiter
from paceline.admission.permit_pool import PermitPool
from paceline.admission.run_queue import RunQueue
from paceline.admission.upstream_health import UpstreamHealth, is_deadline_infeasible
from paceline.model import Priority, Rate, Verdict, WaitReason
from paceline.rate.rate_info import RateInfo
from paceline.rate.window import CopyMemo

_BLOCKED = QueueState.BLOCKED
_BULK = Priority.BULK
_RATE, _CONCURRENCY, _PAUSE = WaitReason.RATE, WaitReason.CONCURRENCY, WaitReason.PAUSE

_MAX_TIMER_LAG_S = 0.1
"""Seconds. A timer later than this means a stall of the process: its capacity is lost, not written as one burst."""


class Gate:
    """Admission to one upstream."""

    def __init__(
        self,
        rates: Sequence[Rate],
        *,
        limit: float,
        adaptive_limit: float,
        transit_s: float,
        max_pause_s: float,
        socket_pool: PermitPool,
        request_dispatch: Callable[[], None],
        health: UpstreamHealth | None = None,
    ) -> None:
        self.limit = limit
        self.adaptive_limit = adaptive_limit
        self.health = health
        self.breaker_changed = False
        """Whether the last settlement opened the breaker, or was a trial that left it open: waiters may be rejected."""
        self.min_latency_s = 0.0
        """The minimum latency that its health measured, for a copy without health."""
        self.infeasible_waiters: list[Waiter] = []
        """Waiters that dispatches withdrew because too little time was left to serve them; `AsyncGate` rejects them."""
        self.in_flight = 0
        self._bulk_in_flight = 0
        self.queued = 0
        self.paused = False
        self._socket_pool = socket_pool
        self._request_dispatch = request_dispatch
        self.budgets = BudgetTable(rates, transit_s, max_pause_s)
        self._run_queue = RunQueue(request_dispatch)
        self._last_non_rate_wait_at = -inf
        """When a ready queue last had to wait for something else than its rate."""

    def open_flow(
        self,
        lane: Lane,
        priority: Priority,
        tenant: str,
        batch_pool: PermitPool | None,
        *,
        weight: float = 1.0,
        key: str = DEFAULT_KEY,
    ) -> BatchFlow:
        """Open the flow of one batch; valid until its budget `is_evicted`.

        Raises:
            LookupError: see `BudgetTable.get_or_create`.
        """
        lanes = self.budgets.get_or_create(key, self._run_queue.accrued_at)
        return lanes[lane].open_flow(priority, tenant, weight, batch_pool)

    def offer(self, waiter: Waiter, now: float) -> bool:
        """Queue a waiter. False: another of the same batch waits already, so a dispatch would grant nothing new."""
        flow = waiter.flow
        lane_queue = flow.lane_queue
        self._run_queue.accrue_waits(flow, now)
        waiter.arrival_waits = flow.read_waits()
        waiter.offered_at = min(waiter.offered_at, now)
        self.queued += 1
        is_first = not flow.waiters
        flow.add(waiter)
        if is_first:
            lane_queue.flows.add(flow)
            flow.activate()
            if lane_queue.state is not _BLOCKED or lane_queue.block_reason is _RATE:
                # A head of another cost may be payable sooner.
                self._run_queue.mark_ready_or_idle(lane_queue, now)
        return is_first

    def withdraw(self, waiter: Waiter, now: float) -> None:
        """Take a waiter out of the queue, ungranted; its receipt has the time it waited."""
        self._run_queue.accrue_waits(waiter.flow, now)
        self._dequeue(waiter)
        self._run_queue.mark_ready_or_idle(waiter.flow.lane_queue, now)

    def dispatch(self, now: float) -> tuple[list[Waiter], float]:
        """Grant all that may go now. Returns them, and when to dispatch again (`inf`: after the next event)."""
        run_queue = self._run_queue
        run_queue.accrue_lane_waits(now)
        classic, adaptive = run_queue.scheduler.by_lane
        if adaptive.wait_reason is not None or classic.wait_reason is not None:
            self._last_non_rate_wait_at = now
        run_queue.unblock_due(now)
        granted: list[Waiter] = []
        while (selection := self._select_lane_queue(now)) is not None:
            lane_queue, include_bulk = selection
            flow = lane_queue.head_flow(include_bulk)
            assert flow is not None
            waiter = flow.head()
            batch_pool = flow.batch_pool
            if batch_pool is not None:
                batch_due_at = batch_pool.due_at(waiter.cost, now)
                if not batch_pool.has_capacity or batch_due_at > now:
                    run_queue.park(flow, batch_due_at, now)
                    continue
            due_at, reason = lane_queue.budget.due_at(waiter, now)
            if due_at > now:
                run_queue.block(lane_queue, due_at, reason, now)
                continue
            if (
                self.health.is_deadline_infeasible(waiter, now)
                if self.health
                else is_deadline_infeasible(waiter, self.min_latency_s, now)
            ):
                self.withdraw(waiter, now)
                self.infeasible_waiters.append(waiter)
                continue
            self._grant(waiter, lane_queue, now)
            granted.append(waiter)
        breaker_retry_at, unblock_at = self._record_wait_reasons(now), run_queue.next_unblock_at()
        return granted, breaker_retry_at if breaker_retry_at < unblock_at else unblock_at

    def defer_dispatch(self) -> None:
        """Count the time until the next dispatch as a wait for the rate: the remaining tokens are scarce."""
        adaptive = self._run_queue.scheduler.adaptive
        if adaptive.wait_reason is None:
            adaptive.wait_reason = _RATE

    def mark_written(self, waiter: Waiter, now: float) -> bool:
        """Record that the request's head was written. True: a queue waited for that, so it is time to dispatch."""
        waiter.written_at = now
        flow = waiter.flow
        flow.lane_queue.budget.mark_written(waiter, now)
        if waiter.batch_hold is not None and flow.batch_pool is not None:
            flow.batch_pool.mark_written(waiter.batch_hold, now)
        unblocked = False
        for lane_queue in flow.lane_queue.lanes:
            if lane_queue.state is _BLOCKED and lane_queue.blocked_until == inf:
                self._run_queue.accrue_lane_waits(now)
                self._run_queue.mark_ready_or_idle(lane_queue, now)
                unblocked = True
        return unblocked

    def settle(
        self,
        waiter: Waiter,
        verdict: Verdict,
        now: float,
        *,
        answered_at: float | None = None,
        reused: bool = False,
        retry_after_s: float | None = None,
        rate_info: RateInfo | None = None,
        healthy: bool | None = None,
        timed_out: bool = False,
    ) -> float | None:
        """Release a grant, exactly once. Returns how long the budget pauses for it, or None.

        `healthy` is what the attempt says of the upstream's health, None for nothing.
        """
        assert not waiter.settled, "a grant is settled exactly once"
        waiter.settled = True
        self._run_queue.accrue_lane_waits(now)
        self.in_flight -= 1
        if waiter.priority is _BULK:
            self._bulk_in_flight -= 1
        flow = waiter.flow
        budget = flow.lane_queue.budget
        was_declared_only = budget.has_only_declared_limits
        if rate_info is not None:
            budget.apply_rate_info(waiter, rate_info, now)
        tokens_free_at = budget.settle(waiter, answered_at, reused)
        pause_s = budget.record_verdict(waiter, verdict, now, retry_after_s)
        for lane_queue in flow.lane_queue.lanes:
            if lane_queue.state is _BLOCKED and (
                tokens_free_at <= lane_queue.blocked_until
                or lane_queue.root.active_children > 1
                or not was_declared_only
                or not budget.has_only_declared_limits
            ):
                self._run_queue.mark_ready_or_idle(lane_queue, now)
        if self.health is not None:
            self.breaker_changed = self.health.on_result(waiter, healthy, timed_out, answered_at, now)
            self.adaptive_limit = self.health.limit
        batch_pool = flow.batch_pool
        if batch_pool is not None:
            batch_pool.settle(waiter.batch_hold, answered_at)
            batch_pool.notify()
        self._socket_pool.settle(None, answered_at)
        self._socket_pool.notify()
        return pause_s

    def retune(self, rates: Sequence[Rate], now: float) -> list[Waiter]:
        """Change the windows and keep what they counted. Withdraws and returns waiters that can never be paid now."""
        self.budgets.retune(rates, now)
        unpayable = [
            each for each in self.budgets.iter_waiters() if self.budgets.unpayable_reason(each.cost, None) is not None
        ]
        for waiter in unpayable:
            self.withdraw(waiter, now)
        self.unblock_all(now)
        return unpayable

    def set_health(self, new_health: UpstreamHealth, now: float) -> None:
        """Take new settings for breaker and limit; what was learned stays as far as they allow."""
        current = self.health
        if current is None:
            self.health = new_health
        else:
            current.retune(new_health, now)
        self.adaptive_limit = new_health.limit if current is None else current.limit

    def reset_learned(self, now: float) -> None:
        """Forget what was learned. Counted sends stay counted."""
        self.budgets.reset_learned()
        if self.health is not None:
            self.health.reset()
            self.adaptive_limit = self.health.limit
        self.unblock_all(now)

    def unblock_all(self, now: float) -> None:
        """Unblock every queue, so that the next dispatch decides anew."""
        self._run_queue.accrue_lane_waits(now)
        for lane_queue in self.budgets.iter_lane_queues():
            lane_queue.rate_due_at = None
            self._run_queue.mark_ready_or_idle(lane_queue, now)

    @property
    def has_ready_queue(self) -> bool:
        """Whether a waiter exists that no budget is known to block: a dispatch may grant it."""
        return self._run_queue.scheduler.has_ready

    def is_idle(self, now: float, max_window_s: float = inf) -> bool:
        """Whether there are no waiters, calls in flight or pauses, and every window of up to `max_window_s` is free.

        With every window, dropping this gate would lose nothing.
        """
        return not self.paused and self.budgets.is_idle(now, max_window_s)

    def copy(self, memo: CopyMemo, keys: Collection[str], request_dispatch: Callable[[], None]) -> Gate:
        """Copy this gate for a simulation, with the budgets of `keys` and those with waiters or calls in flight.

        The flows of the copy have their places in the queue but no waiters yet; `memo` has each original's copy.
        """
        clone = copy(self)
        if self.health is not None:
            health, clone.min_latency_s = self.health.copy(), self.health.min_latency_s
            clone.infeasible_waiters = []
            clone.health = health if isinstance(health, UpstreamHealth) else None
            clone.adaptive_limit = health.limit if isinstance(health, UpstreamHealth) else health
        clone._request_dispatch, clone._socket_pool = request_dispatch, self._socket_pool.copy(memo)
        clone.budgets = self.budgets.copy(memo, keys)
        clone._run_queue = self._run_queue.copy(memo, clone.budgets.iter_lane_queues(), request_dispatch)
        return clone

    def _select_lane_queue(self, now: float) -> tuple[LaneQueue, bool] | None:
        """Return the queue to serve next and whether bulk may go; None when none may."""
        scheduler = self._run_queue.scheduler
        if (
            not (scheduler.adaptive.ready_count or scheduler.classic.ready_count)
            or self.paused
            or self.in_flight >= self.limit
        ):
            return None
        if not self._socket_pool.has_capacity:
            self._socket_pool.add_waiter(self, self._request_dispatch)
            return None
        adaptive_limit = self.limit if self.limit < self.adaptive_limit else self.adaptive_limit
        if self.health is not None and scheduler.adaptive.ready_count and self.health.blocked_until(now) > now:
            adaptive_limit = 0.0
        return scheduler.select(self.in_flight, self._bulk_in_flight, self.limit, adaptive_limit)

    def _record_wait_reasons(self, now: float) -> float:
        """Note why each lane's ready queues were not served. Returns until when, where it is for the breaker."""
        classic, adaptive = self._run_queue.scheduler.by_lane
        reason = _PAUSE if self.paused else _CONCURRENCY
        classic.wait_reason = reason if classic.ready_count else None
        adaptive.wait_reason = reason if adaptive.ready_count else None
        if self.health is None or not adaptive.ready_count or self.paused:
            return inf
        retry_at = self.health.blocked_until(now)
        if retry_at <= now:
            return inf
        adaptive.wait_reason = _PAUSE
        return retry_at

    def _grant(self, waiter: Waiter, lane_queue: LaneQueue, now: float) -> None:
        flow = waiter.flow
        allowed_at, rate_bound = now, False
        if lane_queue.rate_due_at is not None and self._last_non_rate_wait_at <= lane_queue.rate_due_at <= now:
            allowed_at, rate_bound = max(lane_queue.rate_due_at, now - _MAX_TIMER_LAG_S), True
        lane_queue.budget.take(waiter, allowed_at, rate_bound, now)
        if flow.batch_pool is not None:
            batch_allowed_at = max(flow.batch_due_at, now - _MAX_TIMER_LAG_S) if flow.unparked_at == now else now
            waiter.batch_hold = flow.batch_pool.take(waiter.cost, batch_allowed_at)
        self._socket_pool.take(waiter.cost, now)
        self.in_flight += 1
        if flow.priority is _BULK:
            self._bulk_in_flight += 1
        if self.health is not None:
            self.health.on_grant(waiter, self.in_flight, now)
        waiter.granted_at = now
        scheduler = self._run_queue.scheduler
        lane_scheduler = scheduler.by_lane[lane_queue.lane]
        lane_queue.accrue_waits(now, lane_scheduler.waits)
        cost = waiter.cost["requests"]
        flow.charge(cost)
        scheduler.virtual_time = lane_scheduler.charge(lane_queue, flow.priority, cost, scheduler.virtual_time)
        self._dequeue(waiter)
        self._run_queue.mark_ready_or_idle(lane_queue, now)

    def _dequeue(self, waiter: Waiter) -> None:
        flow, arrival_waits, receipt = waiter.flow, waiter.arrival_waits, waiter.receipt
        rate_s, concurrency_s, pause_s = flow.read_waits()
        receipt.rate_wait_s += rate_s - arrival_waits[0]
        receipt.queue_s += concurrency_s - arrival_waits[1]
        receipt.pause_s += pause_s - arrival_waits[2]
        flow.remove(waiter)
        self.queued -= 1
        if not flow.waiters:
            flow.lane_queue.flows.discard(flow)
            flow.deactivate()
            self._run_queue.remove_flow(flow)
