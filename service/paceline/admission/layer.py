"""Admission as a layer: wait for the grant, send, settle exactly once."""

from __future__ import annotations

import time
from functools import partial

from paceline.admission.lineup import Lane, Waiter
from paceline.admission.partition import Places
from paceline.admission.shell import Admitter
from paceline.errors import AttemptTimeout, ItemTimeout, PacelineError, Rejected
from paceline.events import AttemptFinished, Listener
from paceline.model import Request, Response, Send, Strategy, Verdict
from paceline.rate.dialects import read
from paceline.resilience.retry_after import retry_after_s
from paceline.resilience.verdict import healthy, verdict_of

_LONGEST_TOLD_S = 366 * 86_400.0
"""What is told may be further away than `max_pause`, for which at most it holds anybody."""

_NEARLY = 0.99
"""Event loops may ring a little early."""


class Admission:
    """One batch's way through one upstream's gate."""

    def __init__(
        self,
        admitter: Admitter,
        places: Places,
        strategy: Strategy,
        upstream: str,
        dialect: str,
        usual_s: float,
        tell: Listener,
    ) -> None:
        self._admitter = admitter
        self._places = places
        self._strategy = strategy
        self._upstream = upstream
        self._dialect = dialect
        self._usual_s = usual_s
        """The time that its policy gives an answer; an item that gives it less says nothing of its health."""
        self._tell = tell

    async def __call__(self, request: Request, call_next: Send) -> Response:
        receipt, exchange = request.receipt, request.exchange
        waiter = Waiter(self._places.of(request), request.cost, receipt, request.deadline)
        await self._admitter.admit(waiter)
        began_at = waiter.granted_at
        assert began_at is not None
        receipt.attempts += 1
        receipt.named_s, receipt.exhausted = None, False
        exchange.on_written = partial(self._admitter.written, waiter)
        verdict, status, named_s, told, timed_out, hasty = Verdict.IGNORED, None, None, None, False, False
        try:
            response = await call_next(request)
            status = response.status
            told = read(
                response.headers,
                self._dialect,
                status=status,
                now_epoch_s=time.time(),
                max_reset_s=_LONGEST_TOLD_S,
                body=response.body,
            )
            if status >= 400:
                named_s = retry_after_s(response)
                if told is not None:
                    named_s = told.retry_after_s if named_s is None else named_s
                    receipt.exhausted = any(window.exhausted for window in told.windows)
                receipt.named_s = named_s
            verdict = verdict_of(response, request.retry.statuses, exhausted=receipt.exhausted)
            return response
        except Rejected:
            receipt.attempts -= 1
            raise
        except PacelineError as error:
            verdict = verdict_of(error, request.retry.statuses)
            timed_out = isinstance(error, AttemptTimeout | ItemTimeout)
            hasty = isinstance(error, ItemTimeout) and time.perf_counter() - began_at < _NEARLY * self._usual_s
            raise
        finally:
            health = None if hasty else healthy(verdict, status)
            paused_s = self._admitter.settle(
                waiter, verdict, exchange, named_s, told, healthy=health, timed_out=timed_out
            )
            if verdict is Verdict.THROTTLED:
                receipt.budget_paused = paused_s is not None and waiter.flow.lineup.lane is Lane.ADAPTIVE
                receipt.retry_after_s = paused_s
            if exchange.written_at is not None:
                receipt.sent = True
            took_s = time.perf_counter() - began_at
            receipt.upstream_s += took_s
            self._tell(AttemptFinished(self._strategy, self._upstream, verdict, status, took_s))
