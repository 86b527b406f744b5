"""Which answers are tried again, how long apart and how often: the retry layer by itself, in virtual time."""

from __future__ import annotations

import asyncio
import random
import time
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from paceline.errors import (
    AttemptError,
    AttemptTimeout,
    BodyTooLarge,
    ConnectFailed,
    DeadlineExceeded,
    DnsFailed,
    EgressDenied,
    InvalidRequest,
    ItemTimeout,
    PacelineError,
    ProtocolError,
    TlsFailed,
)
from paceline.events import Event, RetryScheduled
from paceline.model import TRANSIENT_STATUSES, Request, Response, RetryPolicy
from paceline.resilience.retry import RetryLayer
from paceline.resilience.retry_budget import RetryBudget
from paceline.resilience.verdict import classify_attempt
from paceline.retry_after import parse_retry_after
from support.request_factory import build_request
from support.virtual_clock import virtual_time

Answer = Response | BaseException
SLOW = 1e9


class Attempts:
    """The rest of the pipeline: answers by script, the last for ever; fills the receipt as the admission layer does."""

    def __init__(self, *answers: Answer, takes_s: float = 0.0, pauses_s: float | None = None) -> None:
        self.answers = list(answers)
        self.seen: list[tuple[float, Request]] = []
        self._takes_s, self._pauses_s = takes_s, pauses_s

    @property
    def waits(self) -> list[float]:
        times = [at + self._takes_s for at, _ in self.seen]
        return [later - self._takes_s - earlier for earlier, later in pairwise(times)]

    async def __call__(self, request: Request) -> Response:
        self.seen.append((time.perf_counter(), request))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await asyncio.sleep(self._takes_s)
        receipt = request.receipt
        receipt.attempts += 1
        receipt.upstream_s += self._takes_s
        wait_s = parse_retry_after(answer.headers, time.time()) if isinstance(answer, Response) else None
        receipt.advertised_wait_s = wait_s
        receipt.verdict = classify_attempt(answer, request.retry.statuses, rate_limited=wait_s is not None)
        if isinstance(answer, BaseException):
            raise answer
        if answer.status == 429:
            receipt.budget_paused = self._pauses_s is not None
            receipt.retry_after_s = self._pauses_s
        return answer


def status(code: int, *headers: tuple[str, str]) -> Response:
    return Response(code, headers, b"")


def item(method: str = "GET", *, repeatable: bool = True, **fields: Any) -> Request:
    policy = {name: fields.pop(name) for name in list(fields) if name in RetryPolicy.__struct_fields__}
    return replace(
        build_request("http://api.example/", method),
        repeatable=repeatable,
        **{"retry": RetryPolicy(**policy), **fields},
    )


async def tried(request: Request, attempts: Attempts, told: list[Event] | None = None) -> Answer:
    try:
        return await RetryLayer("api", RetryBudget(retries_per_s=1e6), (told if told is not None else []).append)(
            request, attempts
        )
    except PacelineError as error:
        return error


@pytest.mark.parametrize("code", sorted(TRANSIENT_STATUSES))
@virtual_time
async def test_a_transient_answer_is_tried_three_times_and_the_last_one_is_the_items(code: int):
    attempts = Attempts(status(code))
    answer = await tried(item(), attempts)
    assert isinstance(answer, Response)
    assert answer.status == code
    assert [request.attempt for _, request in attempts.seen] == [1, 2, 3]
    assert len({id(request.exchange) for _, request in attempts.seen}) == 3


@pytest.mark.parametrize("code", [200, 204, 301, 304, 400, 401, 403, 404, 409, 422, 501, 505, 511, 599])
@virtual_time
async def test_what_another_try_cannot_better_is_not_tried_again(code: int):
    attempts = Attempts(status(code))
    await tried(item(), attempts)
    assert len(attempts.seen) == 1


@virtual_time
async def test_a_status_the_operator_adds_is_tried_again():
    attempts = Attempts(status(404), status(200))
    answer = await tried(item(statuses=frozenset({404})), attempts)
    assert answer.status == 200


@pytest.mark.parametrize("kind", [ConnectFailed, DnsFailed, TlsFailed, AttemptTimeout, ProtocolError])
@virtual_time
async def test_an_error_of_an_attempt_is_tried_again_and_the_last_one_is_let_through_unchanged(
    kind: type[AttemptError],
):
    errors = [kind(str(number), sent=True) for number in range(3)]
    attempts = Attempts(*errors)
    assert await tried(item(), attempts) is errors[2]


@pytest.mark.parametrize(
    "error", [BodyTooLarge("big", sent=True), EgressDenied("no"), InvalidRequest("no"), ItemTimeout("late")]
)
@virtual_time
async def test_some_errors_are_final(error: PacelineError):
    attempts = Attempts(error)
    assert await tried(item(), attempts) is error
    assert len(attempts.seen) == 1


@pytest.mark.parametrize("error", [DeadlineExceeded("over"), ItemTimeout("over")])
@virtual_time
async def test_an_end_of_time_on_a_later_attempt_is_let_through(error: PacelineError):
    attempts = Attempts(status(500), error)
    assert await tried(item(), attempts) is error


@pytest.mark.parametrize("first", [status(503), ProtocolError("broken", sent=True)])
@virtual_time
async def test_a_retry_that_may_not_go_leaves_the_item_its_last_answer(first: Answer):
    attempts = Attempts(first, EgressDenied("the name has moved", retry_after_s=7.0), status(200))
    request = item()
    assert await tried(request, attempts) is first
    assert len(attempts.seen) == 2
    assert request.receipt.retry_after_s == 7.0


@virtual_time
async def test_one_attempt_means_one_and_nothing_more():
    for answer in (status(500), status(429), status(429, ("retry-after", "1")), ConnectFailed("refused")):
        attempts = Attempts(answer)
        await tried(item(attempts=1), attempts)
        assert len(attempts.seen) == 1


@virtual_time
async def test_throttles_do_not_use_up_attempts():
    throttle = status(429, ("retry-after-ms", "10"))
    attempts = Attempts(throttle, throttle, status(500), throttle, status(500), throttle, status(500), status(200))
    answer = await tried(item(), attempts)
    assert answer.status == 500
    assert len(attempts.seen) == 7


@pytest.mark.parametrize("throttles", [0, 1, 4, 10])
@virtual_time
async def test_so_many_throttles_are_waited_out_and_not_one_more(throttles: int):
    attempts = Attempts(status(429, ("retry-after-ms", "10")))
    answer = await tried(item(throttles=throttles), attempts)
    assert answer.status == 429
    assert len(attempts.seen) == 1 + throttles


@virtual_time
async def test_backoff_is_jittered_between_nothing_and_a_bound_that_doubles():
    random.seed(1)
    waits = []
    for _ in range(300):
        attempts = Attempts(status(500))
        await tried(item(attempts=6, base_s=1.0, cap_s=5.0), attempts)
        waits.append(attempts.waits)
    for number, bound in enumerate([1.0, 2.0, 4.0, 5.0, 5.0]):
        nth = [each[number] for each in waits]
        assert 0 <= min(nth) < 0.05 * bound
        assert 0.95 * bound < max(nth) <= bound
        assert sum(nth) / len(nth) == pytest.approx(bound / 2, rel=0.2)


@virtual_time
async def test_a_backoff_is_never_shorter_than_a_named_wait():
    for _ in range(50):
        attempts = Attempts(status(500, ("retry-after", "3")), status(200))
        await tried(item(base_s=8.0), attempts)
        assert 3.0 <= attempts.waits[0] <= 8.0 + 1e-9


@virtual_time
async def test_a_backoff_longer_than_our_cap_is_obeyed():
    attempts = Attempts(status(500, ("retry-after", "25")), status(200))
    await tried(item(), attempts)
    assert attempts.waits == pytest.approx([25.0])


@virtual_time
async def test_a_throttle_that_paused_nobody_is_waited_out_by_the_item_itself():
    for _ in range(50):
        attempts = Attempts(status(429, ("retry-after", "2")), status(429), status(429), status(200))
        request = item()
        await tried(request, attempts)
        named, second, third = attempts.waits
        assert 2.0 <= named <= 2.1
        assert 0.1 <= second <= 0.2
        assert 0.2 <= third <= 0.4
        assert request.receipt.pause_s == pytest.approx(sum(attempts.waits))
        assert request.receipt.backoff_s == 0.0


@virtual_time
async def test_where_the_whole_budget_is_paused_the_gate_makes_the_item_wait():
    attempts = Attempts(status(429, ("retry-after", "30")), status(200), pauses_s=30.0)
    request = item()
    assert (await tried(request, attempts)).status == 200
    assert attempts.waits == [0.0]
    assert request.receipt.pause_s == 0.0


@virtual_time
async def test_a_wait_that_would_pass_the_deadline_ends_the_item_at_once():
    for answer, pauses_s in (
        (status(500, ("retry-after", "10")), None),
        (status(429, ("retry-after", "10")), None),
        (status(429, ("retry-after", "10")), 10.0),
    ):
        attempts = Attempts(answer, takes_s=1.0, pauses_s=pauses_s)
        request = item(deadline=time.perf_counter() + 10.5)
        began_at = time.perf_counter()
        assert await tried(request, attempts) is answer
        assert time.perf_counter() - began_at == pytest.approx(1.0)
        assert request.receipt.retry_after_s == 10.0


@pytest.mark.parametrize("pauses_s", [None, 60.0])
@virtual_time
async def test_a_wait_beyond_max_pause_ends_the_item_with_the_wait_it_was_told(pauses_s: float | None):
    attempts = Attempts(status(429, ("retry-after", "61")), pauses_s=pauses_s)
    request = item(max_pause_s=60.0)
    assert (await tried(request, attempts)).status == 429
    assert len(attempts.seen) == 1
    assert request.receipt.retry_after_s == 61.0


@virtual_time
async def test_a_backoff_counts_against_the_items_timeout():
    attempts = Attempts(status(500, ("retry-after", "3")), takes_s=1.0)
    request = item(timeout_s=5.5, attempts=9)
    assert (await tried(request, attempts)).status == 500
    assert len(attempts.seen) == 2
    assert request.receipt.backoff_s == pytest.approx(3.0)


@virtual_time
async def test_a_throttles_wait_does_not_count_against_the_items_timeout():
    throttle = status(429, ("retry-after", "20"))
    attempts = Attempts(throttle, throttle, throttle, status(200), takes_s=1.0)
    assert (await tried(item(timeout_s=5.0), attempts)).status == 200


@virtual_time
async def test_an_item_whose_time_is_used_up_is_not_sent_again_after_a_throttle():
    attempts = Attempts(status(429, ("retry-after", "1")), takes_s=5.0)
    assert (await tried(item(timeout_s=5.0), attempts)).status == 429
    assert len(attempts.seen) == 1


@pytest.mark.parametrize(
    ("answer", "again"),
    [
        (status(500), False),
        (status(503), False),
        (status(503, ("retry-after", "1")), False),
        (status(429), True),
        (status(403, ("retry-after", "1")), True),
        (ConnectFailed("refused"), True),
        (DnsFailed("no name"), True),
        (ProtocolError("reset", sent=True), False),
        (ProtocolError("reset before it was written", sent=False), True),
        (AttemptTimeout("late", sent=True), False),
        (AttemptTimeout("never connected", sent=False), True),
    ],
)
@virtual_time
async def test_what_is_not_safe_to_repeat_is_sent_again_only_where_nothing_can_have_come_of_it(
    answer: Answer, again: bool
):
    attempts = Attempts(answer, status(200))
    await tried(item("POST", repeatable=False), attempts)
    assert (len(attempts.seen) == 2) is again


@virtual_time
async def test_the_upstreams_word_is_obeyed_within_the_bounds():
    async def sent(answer: Response, **fields: Any) -> int:
        attempts = Attempts(answer)
        await tried(item(**fields), attempts)
        return len(attempts.seen)

    yes, no = ("x-should-retry", "true"), ("x-should-retry", "false")
    assert await sent(status(400, yes)) == 3
    assert await sent(status(400, ("x-should-retry", " True "))) == 3
    assert await sent(status(500, no)) == 1
    assert await sent(status(429, no)) == 1
    assert await sent(status(500, ("x-should-retry", "perhaps"))) == 3
    assert await sent(status(400, yes), attempts=1) == 1
    assert await sent(status(400, yes), repeatable=False) == 1


@virtual_time
async def test_a_success_is_never_sent_again_whatever_its_headers_say():
    attempts = Attempts(status(500), status(200, ("x-should-retry", "true")))
    assert (await tried(item(), attempts)).status == 200
    assert len(attempts.seen) == 2


@virtual_time
async def test_a_cancelled_backoff_ends_at_once_and_is_on_the_receipt():
    attempts = Attempts(status(500, ("retry-after", "60")))
    request = item(timeout_s=SLOW)
    task = asyncio.create_task(tried(request, attempts))
    await asyncio.sleep(7.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert request.receipt.backoff_s == pytest.approx(7.0)
    assert time.perf_counter() == pytest.approx(1007.0)


@virtual_time
async def test_a_cancelled_attempt_is_not_tried_again():
    for answers in ((asyncio.CancelledError(),), (status(500), asyncio.CancelledError())):
        attempts = Attempts(*answers, status(200))
        with pytest.raises(asyncio.CancelledError):
            await tried(item(), attempts)
        assert len(attempts.seen) == len(answers)


@virtual_time
async def test_each_retry_is_told_with_its_reason():
    told: list[Event] = []
    await tried(item(), Attempts(status(500), ConnectFailed("x"), status(429), status(404)), told)
    assert [event.reason for event in told if isinstance(event, RetryScheduled)] == [
        "status",
        "connect_failed",
        "throttled",
    ]
