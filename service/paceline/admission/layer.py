"""Admission as a layer of the pipeline: wait for the grant, send, settle exactly once."""

from __future__ import annotations

import time
from functools import partial

from paceline.admission.async_gate import AsyncGate
from paceline.admission.flow_table import FlowTable
from paceline.admission.lane import Lane
from paceline.admission.lane_queue import Waiter
from paceline.errors import AttemptTimeout, ItemTimeout, PacelineError, Rejected
from paceline.events import AttemptFinished, EventListener
from paceline.model import Request, Response, Send, Strategy, Verdict
from paceline.rate.dialects import parse_rate_headers
from paceline.resilience.verdict import classify_attempt, health_of
from paceline.retry_after import parse_retry_after

_MAX_ADVERTISED_RESET_S = 366 * 86_400.0
"""Seconds. An advertised reset may be further away than `max_pause`, which caps only how long it blocks."""

_TIMEOUT_TOLERANCE = 0.99
"""Timers of event loops may fire a little early."""


class AdmissionLayer:
    """Sends one batch's requests through one upstream's gate."""

    def __init__(
        self,
        async_gate: AsyncGate,
        flow_table: FlowTable,
        strategy: Strategy,
        upstream: str,
        dialect: str,
        policy_timeout_s: float,
        emit: EventListener,
    ) -> None:
        self._async_gate = async_gate
        self._flow_table = flow_table
        self._strategy = strategy
        self._upstream = upstream
        self._dialect = dialect
        self._policy_timeout_s = policy_timeout_s
        """The upstream's own timeout; a timeout of an item that allows less says nothing about its health."""
        self._emit = emit

    async def __call__(self, request: Request, call_next: Send) -> Response:
        receipt, exchange = request.receipt, request.exchange
        waiter = Waiter(self._flow_table.get_or_open(request), request.cost, receipt, request.deadline)
        await self._async_gate.acquire(waiter)
        granted_at = waiter.granted_at
        assert granted_at is not None
        receipt.attempts += 1
        receipt.advertised_wait_s = None
        exchange.on_written = partial(self._async_gate.mark_written, waiter)
        verdict, status, advertised_wait_s, rate_info, timed_out, short_timeout = (
            Verdict.IGNORED,
            None,
            None,
            None,
            False,
            False,
        )
        try:
            response = await call_next(request)
            status = response.status
            now_epoch_s = time.time()
            if status >= 400:
                advertised_wait_s = parse_retry_after(response.headers, now_epoch_s)
            rate_limited = advertised_wait_s is not None
            rate_info = parse_rate_headers(
                response.headers,
                self._dialect,
                status=status,
                now_epoch_s=now_epoch_s,
                max_reset_s=_MAX_ADVERTISED_RESET_S,
                retry_after_s=advertised_wait_s,
                body=response.body,
            )
            if status >= 400:
                if rate_info is not None:
                    rate_limited = rate_limited or any(window.exhausted for window in rate_info.windows)
                    advertised_wait_s = rate_info.retry_after_s if advertised_wait_s is None else advertised_wait_s
                receipt.advertised_wait_s = advertised_wait_s
            verdict = classify_attempt(response, request.retry.statuses, rate_limited=rate_limited)
            receipt.verdict = verdict
            return response
        except Rejected:
            receipt.attempts -= 1
            raise
        except PacelineError as error:
            verdict = classify_attempt(error, request.retry.statuses)
            receipt.verdict = verdict
            timed_out = isinstance(error, AttemptTimeout | ItemTimeout)
            short_timeout = (
                isinstance(error, ItemTimeout)
                and time.perf_counter() - granted_at < _TIMEOUT_TOLERANCE * self._policy_timeout_s
            )
            raise
        finally:
            is_healthy = None if short_timeout else health_of(verdict, status)
            pause_s = self._async_gate.settle(
                waiter, verdict, exchange, advertised_wait_s, rate_info, healthy=is_healthy, timed_out=timed_out
            )
            if verdict is Verdict.THROTTLED:
                receipt.budget_paused = pause_s is not None and waiter.lane is Lane.ADAPTIVE
                receipt.retry_after_s = pause_s
            if exchange.written_at is not None:
                receipt.sent = True
            duration_s = time.perf_counter() - granted_at
            receipt.upstream_s += duration_s
            self._emit(AttemptFinished(self._strategy, self._upstream, verdict, status, duration_s))
