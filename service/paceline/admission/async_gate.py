"""The asyncio side of a gate: one timer, and a future for each waiter that has to wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from math import inf

from paceline.admission.arrival_coalescer import MAX_COALESCE_S, ArrivalCoalescer
from paceline.admission.early_rejection import (
    breaker_wait_s,
    reject_breaker_blocked,
    reject_unreachable,
    unreachable_wait_s,
)
from paceline.admission.gate import Gate
from paceline.admission.lane_queue import Waiter
from paceline.admission.latency import MeanLatency
from paceline.admission.permit_pool import PermitPool
from paceline.admission.upstream_health import UpstreamHealth
from paceline.errors import CircuitOpen, DeadlineUnreachable, InvalidRequest, Rejected
from paceline.model import Exchange, Rate, Verdict
from paceline.rate.rate_info import RateInfo
from paceline.units import format_seconds

TIMER_RESOLUTION_S = 0.001
"""Event loops keep time in milliseconds; one wake-up grants all that is due."""


class AsyncGate:
    """Admits attempts through one gate; see `gate.py` for the rules."""

    def __init__(
        self,
        rates: Sequence[Rate],
        *,
        limit: float,
        adaptive_limit: float,
        transit_s: float,
        max_pause_s: float,
        socket_pool: PermitPool,
        on_pause: Callable[[float], None],
        health: UpstreamHealth | None = None,
    ) -> None:
        self.gate = Gate(
            rates,
            limit=limit,
            adaptive_limit=adaptive_limit,
            transit_s=transit_s,
            max_pause_s=max_pause_s,
            socket_pool=socket_pool,
            request_dispatch=self.dispatch,
            health=health,
        )
        self.mean_latency = MeanLatency()
        self._on_pause = on_pause
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._coalescer: ArrivalCoalescer | None = None

    async def acquire(self, waiter: Waiter) -> None:
        """Return when this attempt may go; it must then be settled.

        Raises:
            InvalidRequest: its cost can never be paid, or not any more after a retune.
            DeadlineUnreachable: it cannot be served by its deadline, or not any more after a pause or a retune.
            CircuitOpen: the breaker is open, and it cannot or will not wait for the next trial.
        """
        unpayable_reason = self.gate.budgets.unpayable_reason(waiter.cost, waiter.flow.batch_pool)
        if unpayable_reason is not None:
            raise InvalidRequest(unpayable_reason)
        now = time.perf_counter()
        next_trial_s = breaker_wait_s(self.gate, waiter, now)
        if next_trial_s is not None:
            raise _circuit_open_error(next_trial_s)
        required_wait_s = unreachable_wait_s(waiter, now)
        if required_wait_s is not None:
            raise _deadline_unreachable_error(required_wait_s)
        if self.gate.offer(waiter, now):
            if waiter.flow.lane_queue.budget.uses_interactive_reserve(waiter, now):
                self._dispatch_coalesced()
            else:
                self.dispatch(now)  # at the same moment, so that the time this takes is no wait
        if waiter.granted_at is not None:
            return
        waiter.future = asyncio.get_running_loop().create_future()
        try:
            await waiter.future
        except asyncio.CancelledError:
            if waiter.granted_at is not None:
                self.settle(waiter, Verdict.IGNORED, Exchange())
            elif waiter in waiter.flow.waiters:
                self.gate.withdraw(waiter, time.perf_counter())
                self.dispatch()
            raise

    def mark_written(self, waiter: Waiter, now: float) -> None:
        """Record that the attempt's head was written: its tokens now have a time of return."""
        if self.gate.mark_written(waiter, now):
            self.dispatch()

    def settle(
        self,
        waiter: Waiter,
        verdict: Verdict,
        exchange: Exchange,
        retry_after_s: float | None = None,
        rate_info: RateInfo | None = None,
        healthy: bool | None = None,
        timed_out: bool = False,
    ) -> float | None:
        """Release a grant, exactly once. Returns how long the budget pauses for it, or None."""
        now = time.perf_counter()
        if verdict not in (Verdict.IGNORED, Verdict.THROTTLED) and waiter.granted_at is not None:
            self.mean_latency.add(now - waiter.granted_at, reused=exchange.reused)
        pause_s = self.gate.settle(
            waiter,
            verdict,
            now,
            answered_at=exchange.answered_at,
            reused=exchange.reused,
            retry_after_s=retry_after_s,
            rate_info=rate_info,
            healthy=healthy,
            timed_out=timed_out,
        )
        if pause_s:
            self._on_pause(pause_s)
            self._reject_unreachable()
        if self.gate.breaker_changed:
            for rejected, next_trial_s in reject_breaker_blocked(self.gate, time.perf_counter()):
                _reject(rejected, _circuit_open_error(next_trial_s))
        if self.gate.has_ready_queue or self._timer_at <= now:
            self.dispatch()
        return pause_s

    def retune(self, rates: Sequence[Rate]) -> None:
        """Change the windows and reject the waiters that can never be paid any more."""
        for waiter in self.gate.retune(rates, time.perf_counter()):
            unpayable_reason = self.gate.budgets.unpayable_reason(waiter.cost, None)
            _reject(waiter, InvalidRequest(unpayable_reason or "the upstream's limit was changed"))
        self._reject_unreachable()
        self.dispatch()

    def _reject_unreachable(self) -> None:
        for waiter, required_wait_s in reject_unreachable(self.gate, time.perf_counter()):
            _reject(waiter, _deadline_unreachable_error(required_wait_s))

    def set_paused(self, paused: bool) -> None:
        """Set or lift the operator's pause; calls in flight continue."""
        self.gate.paused = paused
        self.dispatch()

    def reset(self, rates: Sequence[Rate]) -> None:
        """Return to the configuration and forget what was learned."""
        self.gate.paused = False
        self.mean_latency = MeanLatency()
        self.gate.reset_learned(time.perf_counter())
        self.retune(rates)

    def dispatch(self, now: float | None = None) -> None:
        """Grant all that may go now and set the timer for the next. Nothing that this calls dispatches again."""
        if now is None:
            now = time.perf_counter()
        granted, next_wakeup_at = self.gate.dispatch(now)
        for waiter in granted:
            if waiter.future is not None and not waiter.future.done():
                waiter.future.set_result(None)
        if self.gate.infeasible_waiters:
            for waiter in self.gate.infeasible_waiters:
                _reject(waiter, _deadline_infeasible_error(waiter.deadline - now))
            self.gate.infeasible_waiters = []
        self._set_timer(next_wakeup_at)

    def close(self) -> None:
        """Stop the timer."""
        self._set_timer(inf)
        self._coalescer = None

    def _dispatch_coalesced(self) -> None:
        """Dispatch after the rest of a batch has arrived, so that scarce tokens are shared by all that is queued."""
        self.gate.defer_dispatch()
        if self._coalescer is None:
            self._coalescer = ArrivalCoalescer(self.gate.queued, time.perf_counter() + MAX_COALESCE_S)
            asyncio.get_running_loop().call_soon(self._dispatch_if_quiet)

    def _dispatch_if_quiet(self) -> None:
        coalescer = self._coalescer
        if coalescer is None:
            return
        if coalescer.should_keep_waiting(self.gate.queued, time.perf_counter()):
            asyncio.get_running_loop().call_soon(self._dispatch_if_quiet)
        else:
            self._coalescer = None
            self.dispatch()

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            if at == self._timer_at:
                return
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at < inf:
            delay_s = max(TIMER_RESOLUTION_S, at - time.perf_counter())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.dispatch()


def _reject(waiter: Waiter, error: Rejected) -> None:
    if waiter.future is not None and not waiter.future.done():
        waiter.future.set_exception(error)


def _circuit_open_error(next_trial_s: float) -> CircuitOpen:
    return CircuitOpen(
        f"the upstream fails and is given a rest; the next trial is due in {format_seconds(next_trial_s, 3)}",
        retry_after_s=next_trial_s,
    )


def _deadline_unreachable_error(required_wait_s: float) -> DeadlineUnreachable:
    return DeadlineUnreachable(
        f"it would have to wait {format_seconds(required_wait_s, 3)} at least, which is past its deadline; "
        "allow more time or send less",
        retry_after_s=required_wait_s,
    )


def _deadline_infeasible_error(remaining_s: float) -> DeadlineUnreachable:
    return DeadlineUnreachable(
        f"its turn came {format_seconds(remaining_s, 3)} before its deadline, "
        "and of late the upstream answered nobody as quickly; allow more time or send less"
    )
