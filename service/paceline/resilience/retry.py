"""The retry layer: which answers are tried again, how long apart, how often. The loop is tenacity's.

Outside every permit, so an item that waits for its backoff holds nothing. The first attempt runs outside tenacity
(entering its loop costs as much as a small request); only a failed one enters, as the loop's first result.

* transient answers, if safe to repeat: full jitter `base_s` doubling to `cap_s` (Brooker, "Exponential Backoff And
  Jitter", 2015), never shorter than a named Retry-After, `attempts` in all;
* throttles: the wait the upstream named, else `base_s` doubling to `cap_s`; `throttles` of them, not counted as
  attempts; where the whole budget was paused the gate makes the item wait and nothing is waited here;
* a transient answer is tried again only while the upstream's retry budget lasts; a throttle needs none, as pause and
  probe already hold back what would multiply;
* a wait that would pass the deadline, the item's timeout or `max_pause_s` ends the item at once with its last answer,
  and so does a refusal of ours to let the next attempt go: what was sent is never `rejected`.
"""

from __future__ import annotations

import asyncio
import random
import time

from msgspec import Struct
from msgspec.structs import replace
from tenacity import AsyncRetrying, RetryCallState

from paceline.errors import AttemptError, Rejected
from paceline.events import Listener, RetryScheduled
from paceline.model import Exchange, Receipt, Request, Response, RetryPolicy, Send, Verdict, WaitReason
from paceline.resilience.retry_after import retry_after_s
from paceline.resilience.retry_budget import RetryBudget
from paceline.resilience.verdict import safe_to_repeat, verdict_of


class Retry:
    """Tries an item again where that is safe and may help."""

    def __init__(self, upstream: str, budget: RetryBudget, tell: Listener) -> None:
        self._upstream = upstream
        self._budget = budget
        self._tell = tell

    async def __call__(self, request: Request, call_next: Send) -> Response:
        first: Response | AttemptError
        try:
            first = await call_next(request)
        except AttemptError as error:
            first = error
        self._budget.sent(time.perf_counter())
        if isinstance(first, Response) and first.status < 400:
            return first
        return await self._again(request, call_next, first)

    async def _again(self, request: Request, call_next: Send, last: Response | AttemptError) -> Response:
        attempt = request
        wait: Wait | None = None
        refused = False

        async def once() -> Response:
            nonlocal last, attempt, refused
            if wait is not None:
                attempt = replace(attempt, attempt=attempt.attempt + 1, exchange=Exchange())
                try:
                    last = await call_next(attempt)
                except AttemptError as error:
                    last = error
                except Rejected as refusal:
                    refused = True
                    if refusal.retry_after_s is not None:
                        request.receipt.retry_after_s = refusal.retry_after_s
            if isinstance(last, AttemptError):
                raise last
            return last

        def wanted(state: RetryCallState) -> bool:
            nonlocal wait
            assert state.outcome is not None
            error = state.outcome.exception()
            if refused or not (error is None or isinstance(error, AttemptError)):
                return False
            wait = wait_before_retry(request, last)
            if wait is None:
                return False
            if wait.reason is WaitReason.BACKOFF and not self._budget.allow(time.perf_counter()):
                request.receipt.retries_spent = True
                return False
            self._tell(RetryScheduled(self._upstream, _reason(last, wait)))
            return True

        async def sleep(_: float) -> None:
            assert wait is not None
            await wait.out(request.receipt)

        again = AsyncRetrying(retry=wanted, sleep=sleep)
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


def wait_before_retry(request: Request, answer: Response | AttemptError) -> Wait | None:
    """The wait before the next attempt, or None where this answer is the item's last.

    Counts a throttle on the receipt and notes the wait that was named.
    """
    policy, receipt = request.retry, request.receipt
    verdict = verdict_of(answer, policy.statuses, exhausted=receipt.exhausted)
    throttled = verdict is Verdict.THROTTLED
    named_s = retry_after_s(answer) if isinstance(answer, Response) else None
    named_s = receipt.named_s if named_s is None else named_s
    paused_s = receipt.retry_after_s if throttled and receipt.budget_paused else None
    receipt.retry_after_s = max((wait_s for wait_s in (named_s, paused_s) if wait_s is not None), default=None)
    receipt.throttles += throttled
    if not _allowed(request, answer, verdict) or (named_s or 0.0) > policy.max_pause_s:
        return None
    if paused_s is not None:
        wait, longest_s = Wait(0.0, WaitReason.PAUSE), paused_s
    elif throttled:
        backoff_s = _doubled(policy, receipt.throttles)
        longest_s = named_s + random.uniform(0, policy.base_s) if named_s else backoff_s * random.uniform(0.5, 1)
        wait = Wait(longest_s, WaitReason.PAUSE)
    else:
        backoff_s = _doubled(policy, receipt.attempts - receipt.throttles)
        longest_s = max(named_s or 0.0, random.uniform(0, backoff_s))
        wait = Wait(longest_s, WaitReason.BACKOFF)
    spent_s = receipt.upstream_s + receipt.backoff_s + (0.0 if throttled else longest_s)
    if spent_s >= request.timeout_s or time.perf_counter() + longest_s >= request.deadline:
        return None
    return wait


def _doubled(policy: RetryPolicy, tries: int) -> float:
    return min(policy.cap_s, policy.base_s * 2.0 ** min(tries - 1, 30))


def _allowed(request: Request, answer: Response | AttemptError, verdict: Verdict) -> bool:
    policy, receipt = request.retry, request.receipt
    says = (answer.header("x-should-retry") or "").strip().lower() if isinstance(answer, Response) else ""
    if verdict is Verdict.SUCCESS or policy.attempts <= 1 or says == "false":
        return False
    if not safe_to_repeat(request.repeatable, answer, verdict):
        return False
    if verdict is Verdict.THROTTLED:
        return receipt.throttles <= policy.throttles
    if receipt.attempts - receipt.throttles >= policy.attempts:
        return False
    return says == "true" or verdict is Verdict.TRANSIENT


def _reason(answer: Response | AttemptError, wait: Wait) -> str:
    if isinstance(answer, AttemptError):
        return answer.code
    return "throttled" if wait.reason is WaitReason.PAUSE else "status"
