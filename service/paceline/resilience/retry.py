"""The retry layer: which answers are tried again, how long apart, how often. The loop is tenacity's.

Outside every permit, so an item that waits for its backoff holds nothing. The first attempt runs outside tenacity
(entering its loop costs as much as a small request); only a failed one enters, as the loop's first result.

* transient answers, if safe to repeat: full jitter `base_s` doubling to `cap_s` (Brooker, "Exponential Backoff And
  Jitter", 2015), never shorter than a named Retry-After, `attempts` in all;
* throttles: the wait the upstream named, else `base_s` doubling to `cap_s`; `throttles` of them, not counted as
  attempts; where the whole budget was paused the gate makes the item wait and nothing is waited here;
* a wait that would pass the deadline, the item's timeout or `max_pause_s` ends the item at once with its last answer.
"""

from __future__ import annotations

import asyncio
import random
import time

from msgspec import Struct
from msgspec.structs import replace
from tenacity import AsyncRetrying, RetryCallState

from paceline.errors import AttemptError, PacelineError, Rejected
from paceline.events import Listener, RetryScheduled
from paceline.model import Exchange, Receipt, Request, Response, Send, Verdict, WaitReason
from paceline.resilience.retry_after import retry_after_s
from paceline.resilience.verdict import safe_to_repeat, verdict_of


class Retry:
    """Tries an item again where that is safe and may help."""

    def __init__(self, upstream: str, tell: Listener) -> None:
        self._upstream = upstream
        self._tell = tell

    async def __call__(self, request: Request, call_next: Send) -> Response:
        first: Response | AttemptError
        try:
            first = await call_next(request)
        except AttemptError as error:
            first = error
        else:
            if first.status < 400:
                return first
        return await self._again(request, call_next, first)

    async def _again(self, request: Request, call_next: Send, first: Response | AttemptError) -> Response:
        attempt = request
        last = first
        entering, refused = True, False
        wait = Wait(0.0, WaitReason.BACKOFF)

        async def once() -> Response:
            nonlocal attempt, entering, refused
            if not entering:
                attempt = replace(attempt, attempt=attempt.attempt + 1, exchange=Exchange())
                try:
                    return await call_next(attempt)
                except Rejected as refusal:
                    if refusal.retry_after_s is not None:
                        request.receipt.retry_after_s = refusal.retry_after_s
                    refused = True  # the answer it has stands
            entering = False
            if isinstance(last, AttemptError):
                raise last
            return last

        def wanted(state: RetryCallState) -> bool:
            nonlocal last, wait
            answer = None if refused else _answer(state)
            decided = wait_before_retry(request, answer) if answer is not None else None
            if decided is None or answer is None:
                return False
            last, wait = answer, decided
            self._tell(RetryScheduled(self._upstream, _reason(answer, wait)))
            return True

        async def sleep(_: float) -> None:
            await wait.out(request.receipt)

        again = AsyncRetrying(retry=wanted, wait=lambda _: wait.seconds, sleep=sleep)
        return await again(once)


class Wait(Struct, frozen=True):
    """How long an item waits before its next attempt, and on which account."""

    seconds: float
    reason: WaitReason

    async def out(self, receipt: Receipt) -> None:
        """Wait, and enter it on the receipt; a throttle's pause does not count against the item's timeout."""
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


def wait_before_retry(request: Request, answer: Response | PacelineError) -> Wait | None:
    """The wait before the next attempt, or None where this answer is the item's last.

    Counts a throttle on the receipt and notes the wait that was named.
    """
    policy, receipt = request.retry, request.receipt
    verdict = verdict_of(answer, policy.statuses)
    named_s = retry_after_s(answer) if isinstance(answer, Response) else None
    throttled = verdict is Verdict.THROTTLED
    if not (throttled and receipt.budget_paused):
        receipt.retry_after_s = named_s
    receipt.throttles += throttled
    if not _allowed(request, answer, verdict):
        return None
    if named_s is not None and named_s > policy.max_pause_s:
        return None
    now = time.perf_counter()
    if throttled and receipt.budget_paused:
        in_time = now + (receipt.retry_after_s or 0.0) < request.deadline
        return Wait(0.0, WaitReason.PAUSE) if in_time else None
    tries = receipt.throttles if throttled else receipt.attempts - receipt.throttles
    backoff_s = min(policy.cap_s, policy.base_s * 2 ** min(tries - 1, 30))
    if throttled:
        wait_s = named_s + random.uniform(0, policy.base_s) if named_s else backoff_s * random.uniform(0.5, 1)
    else:
        wait_s = max(named_s or 0.0, random.uniform(0, backoff_s))
        if receipt.upstream_s + receipt.backoff_s + wait_s >= request.timeout_s:
            return None
    if now + wait_s >= request.deadline:
        return None
    return Wait(wait_s, WaitReason.PAUSE if throttled else WaitReason.BACKOFF)


def _allowed(request: Request, answer: Response | PacelineError, verdict: Verdict) -> bool:
    policy, receipt = request.retry, request.receipt
    if policy.attempts <= 1 or not safe_to_repeat(request.repeatable, answer, verdict):
        return False
    if verdict is Verdict.THROTTLED:
        return receipt.throttles <= policy.throttles
    if receipt.attempts - receipt.throttles >= policy.attempts:
        return False
    says = answer.header("x-should-retry") if isinstance(answer, Response) else None
    if says in ("true", "false"):
        return says == "true"
    return verdict is Verdict.TRANSIENT


def _answer(state: RetryCallState) -> Response | AttemptError | None:
    """The attempt's answer where a retry may be asked for at all; None for cancellation and our own refusals."""
    assert state.outcome is not None
    error = state.outcome.exception()
    if error is None:
        answer = state.outcome.result()
        assert isinstance(answer, Response)
        return answer
    return error if isinstance(error, AttemptError) else None


def _reason(answer: Response | PacelineError, wait: Wait) -> str:
    if isinstance(answer, PacelineError):
        return answer.code
    return "throttled" if wait.reason is WaitReason.PAUSE else "status"
