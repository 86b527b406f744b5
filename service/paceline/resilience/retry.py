"""The retry layer: which attempts are repeated, after which delay, how often. The loop is tenacity's.

Outside every permit, so an item in backoff holds nothing. The first attempt runs outside tenacity (its loop costs as
much as a small request); only a failed one enters the loop, as its first result. The verdict on each attempt and the
wait that it named are on the receipt.

* transient, if safe to repeat: full jitter, `base_s` doubling to `cap_s` (Brooker, "Exponential Backoff And Jitter",
  2015), never shorter than a named Retry-After, `attempts` in all;
* throttled: the wait that the upstream named, else `base_s` doubling to `cap_s`; up to `throttles` times, which do not
  count as attempts; where the whole budget is paused the gate makes the item wait, and there is no delay here;
* a transient attempt is repeated only while the upstream's retry budget lasts; a throttle needs none, as pause and
  probe already limit what would multiply;
* a delay that would pass the deadline, the item's timeout or `max_pause_s` ends the item at once with its last answer,
  and so does a rejection of the next attempt: what was sent is never `rejected`.
"""

from __future__ import annotations

import asyncio
import random
import time

from msgspec import Struct
from msgspec.structs import replace
from tenacity import AsyncRetrying, RetryCallState

from paceline.errors import AttemptError, Rejected
from paceline.events import EventListener, RetryScheduled
from paceline.model import Exchange, Receipt, Request, Response, RetryPolicy, Send, Verdict, WaitReason
from paceline.resilience.retry_budget import RetryBudget
from paceline.resilience.verdict import is_safe_to_repeat


class RetryLayer:
    """Repeats an attempt where that is safe and may help."""

    def __init__(self, upstream: str, budget: RetryBudget, emit: EventListener) -> None:
        self._upstream = upstream
        self._budget = budget
        self._emit = emit

    async def __call__(self, request: Request, call_next: Send) -> Response:
        first_result: Response | AttemptError
        try:
            first_result = await call_next(request)
        except AttemptError as error:
            first_result = error
        self._budget.on_first_send(time.perf_counter())
        if isinstance(first_result, Response) and first_result.status < 400:
            return first_result
        return await self._retry(request, call_next, first_result)

    async def _retry(self, request: Request, call_next: Send, last_result: Response | AttemptError) -> Response:
        attempt = request
        delay: RetryDelay | None = None
        rejected = False

        async def send_attempt() -> Response:
            nonlocal last_result, attempt, rejected
            if delay is not None:
                attempt = replace(attempt, attempt=attempt.attempt + 1, exchange=Exchange())
                try:
                    last_result = await call_next(attempt)
                except AttemptError as error:
                    last_result = error
                except Rejected as rejection:
                    rejected = True
                    if rejection.retry_after_s is not None:
                        request.receipt.retry_after_s = rejection.retry_after_s
            if isinstance(last_result, AttemptError):
                raise last_result
            return last_result

        def should_retry(state: RetryCallState) -> bool:
            nonlocal delay
            assert state.outcome is not None
            error = state.outcome.exception()
            if rejected or not (error is None or isinstance(error, AttemptError)):
                return False
            delay = next_retry_delay(request, last_result)
            if delay is None:
                return False
            if delay.reason is WaitReason.BACKOFF and not self._budget.try_spend(time.perf_counter()):
                request.receipt.retry_budget_exhausted = True
                return False
            self._emit(RetryScheduled(self._upstream, _retry_reason(last_result, delay)))
            return True

        async def sleep(_: float) -> None:
            assert delay is not None
            await delay.sleep(request.receipt)

        retrying = AsyncRetrying(retry=should_retry, sleep=sleep)
        return await retrying(send_attempt)


class RetryDelay(Struct, frozen=True):
    """The delay before an item's next attempt, and its reason."""

    seconds: float
    reason: WaitReason

    async def sleep(self, receipt: Receipt) -> None:
        """Wait, and add it to the receipt; a throttle's pause does not count against the item's timeout."""
        if self.seconds <= 0:
            return
        began_at = time.perf_counter()
        try:
            await asyncio.sleep(self.seconds)
        finally:
            waited_s = time.perf_counter() - began_at
            if self.reason is WaitReason.PAUSE:
                receipt.pause_s += waited_s
            else:
                receipt.backoff_s += waited_s


def next_retry_delay(request: Request, answer: Response | AttemptError) -> RetryDelay | None:
    """The delay before the next attempt, or None where this answer is the item's last.

    Reads the verdict and the named wait that the admission layer left on the receipt, and counts a throttle there.
    """
    policy, receipt = request.retry, request.receipt
    verdict, advertised_wait_s = receipt.verdict, receipt.advertised_wait_s
    assert verdict is not None
    throttled = verdict is Verdict.THROTTLED
    pause_s = receipt.retry_after_s if throttled and receipt.budget_paused else None
    receipt.retry_after_s = max((wait_s for wait_s in (advertised_wait_s, pause_s) if wait_s is not None), default=None)
    receipt.throttles += throttled
    if not _may_retry(request, answer, verdict) or (advertised_wait_s or 0.0) > policy.max_pause_s:
        return None
    if pause_s is not None:
        delay, max_delay_s = RetryDelay(0.0, WaitReason.PAUSE), pause_s
    elif throttled:
        backoff_s = _exponential_backoff_s(policy, receipt.throttles)
        max_delay_s = (
            advertised_wait_s + random.uniform(0, policy.base_s)
            if advertised_wait_s
            else backoff_s * random.uniform(0.5, 1)
        )
        delay = RetryDelay(max_delay_s, WaitReason.PAUSE)
    else:
        backoff_s = _exponential_backoff_s(policy, receipt.attempts - receipt.throttles)
        max_delay_s = max(advertised_wait_s or 0.0, random.uniform(0, backoff_s))
        delay = RetryDelay(max_delay_s, WaitReason.BACKOFF)
    spent_s = receipt.upstream_s + receipt.backoff_s + (0.0 if throttled else max_delay_s)
    if spent_s >= request.timeout_s or time.perf_counter() + max_delay_s >= request.deadline:
        return None
    return delay


def _exponential_backoff_s(policy: RetryPolicy, tries_made: int) -> float:
    return min(policy.cap_s, policy.base_s * 2.0 ** min(tries_made - 1, 30))


def _may_retry(request: Request, answer: Response | AttemptError, verdict: Verdict) -> bool:
    policy, receipt = request.retry, request.receipt
    should_retry_header = (
        (answer.header("x-should-retry") or "").strip().lower() if isinstance(answer, Response) else ""
    )
    if verdict is Verdict.SUCCESS or policy.attempts <= 1 or should_retry_header == "false":
        return False
    if not is_safe_to_repeat(request.repeatable, answer, verdict):
        return False
    if verdict is Verdict.THROTTLED:
        return receipt.throttles <= policy.throttles
    if receipt.attempts - receipt.throttles >= policy.attempts:
        return False
    return should_retry_header == "true" or verdict is Verdict.TRANSIENT


def _retry_reason(answer: Response | AttemptError, delay: RetryDelay) -> str:
    if isinstance(answer, AttemptError):
        return answer.code
    return "throttled" if delay.reason is WaitReason.PAUSE else "status"
