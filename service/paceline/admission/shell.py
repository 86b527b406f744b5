"""The asyncio shell of a gate: one timer, and a future for each waiter that has to wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from math import inf

from paceline.admission.allowance import Allowance
from paceline.admission.call_time import CallTime
from paceline.admission.gate import Gate
from paceline.admission.health import Health
from paceline.admission.lineup import Waiter
from paceline.admission.refusals import give_up, out_of_reach, turn_away, turned_away
from paceline.errors import CircuitOpen, DeadlineUnreachable, InvalidRequest, Rejected
from paceline.model import Exchange, Rate, Verdict
from paceline.rate.rate_info import RateInfo

SOONEST_S = 0.001
"""Event loops keep time in milliseconds; one wake releases all that is due."""

_GATHERED_S = 0.02
_QUIET_TURNS = 2


class Gathering:
    """Waiting for all who come at once: until nobody came for two turns of the loop, or for 20 ms."""

    __slots__ = ("_queued", "_quiet", "_until")

    def __init__(self, queued: int, until: float) -> None:
        self._queued, self._until, self._quiet = queued, until, 0

    def goes_on(self, queued: int, now: float) -> bool:
        """A turn of the loop has passed."""
        self._quiet = 0 if queued > self._queued else self._quiet + 1
        self._queued = queued
        return self._quiet < _QUIET_TURNS and now < self._until


class Admitter:
    """Admits attempts through one gate."""

    def __init__(
        self,
        rates: Sequence[Rate],
        *,
        limit: float,
        adaptive_limit: float,
        transit_s: float,
        max_pause_s: float,
        sockets: Allowance,
        on_pause: Callable[[float], None],
        health: Health | None = None,
    ) -> None:
        self.gate = Gate(
            rates,
            limit=limit,
            adaptive_limit=adaptive_limit,
            transit_s=transit_s,
            max_pause_s=max_pause_s,
            sockets=sockets,
            wake=self.look,
            health=health,
        )
        self.call_time = CallTime()
        self._on_pause = on_pause
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._gathering: Gathering | None = None

    async def admit(self, waiter: Waiter) -> None:
        """Return when this attempt may go; it must then be settled.

        Raises:
            InvalidRequest: its cost can never be paid, or cannot any more after a retune.
            DeadlineUnreachable: it cannot be served by its deadline, or cannot any more after a pause or a retune.
            CircuitOpen: the breaker is open, and it cannot or will not wait for the next trial.
        """
        refusal = self.gate.budgets.refusal(waiter.cost, waiter.flow.own)
        if refusal is not None:
            raise InvalidRequest(refusal)
        now = time.perf_counter()
        trial_s = turned_away(self.gate, waiter, now)
        if trial_s is not None:
            raise _circuit_open(trial_s)
        needed_s = out_of_reach(waiter, now)
        if needed_s is not None:
            raise _unreachable(needed_s)
        if self.gate.offer(waiter, now):
            if waiter.flow.lineup.budget.spends_the_kept(waiter, now):
                self._look_when_all_are_there()
            else:
                self.look(now)  # of the same moment: it has not waited, however long this takes
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
                self.look()
            raise

    def written(self, waiter: Waiter, now: float) -> None:
        """This attempt's head went to the socket: its tokens have a day of return now."""
        if self.gate.written(waiter, now):
            self.look()

    def settle(
        self,
        waiter: Waiter,
        verdict: Verdict,
        exchange: Exchange,
        retry_after_s: float | None = None,
        told: RateInfo | None = None,
        healthy: bool | None = None,
        timed_out: bool = False,
    ) -> float | None:
        """Give a grant back, once. Returns how long the budget pauses for it, where it does."""
        now = time.perf_counter()
        if verdict not in (Verdict.IGNORED, Verdict.THROTTLED) and waiter.granted_at is not None:
            self.call_time.add(now - waiter.granted_at, reused=exchange.reused)
        pause_s = self.gate.settle(
            waiter,
            verdict,
            now,
            answered_at=exchange.answered_at,
            reused=exchange.reused,
            retry_after_s=retry_after_s,
            told=told,
            healthy=healthy,
            timed_out=timed_out,
        )
        if pause_s:
            self._on_pause(pause_s)
            self._give_up()
        if self.gate.tripped:
            for away, trial_s in turn_away(self.gate, time.perf_counter()):
                _refuse(away, _circuit_open(trial_s))
        if self.gate.ready or self._timer_at <= now:
            self.look()
        return pause_s

    def retune(self, rates: Sequence[Rate]) -> None:
        """Change the windows; waiters that can never be paid any more are refused."""
        for waiter in self.gate.retune(rates, time.perf_counter()):
            refusal = self.gate.budgets.refusal(waiter.cost, None)
            _refuse(waiter, InvalidRequest(refusal or "the upstream's limit was changed"))
        self._give_up()
        self.look()

    def _give_up(self) -> None:
        for waiter, needed_s in give_up(self.gate, time.perf_counter()):
            _refuse(waiter, _unreachable(needed_s))

    def set_paused(self, paused: bool) -> None:
        """The operator's pause: nobody goes until it is lifted; what is in flight goes on."""
        self.gate.paused = paused
        self.look()

    def reset(self, rates: Sequence[Rate]) -> None:
        """Back to the configuration, what was learned forgotten."""
        self.gate.paused = False
        self.call_time = CallTime()
        self.gate.forget_learned(time.perf_counter())
        self.retune(rates)

    def look(self, now: float | None = None) -> None:
        """Release all who may go now and set the timer for the next. Nothing that this calls looks again."""
        if now is None:
            now = time.perf_counter()
        granted, again = self.gate.look(now)
        for waiter in granted:
            if waiter.future is not None and not waiter.future.done():
                waiter.future.set_result(None)
        if self.gate.past_hope:
            for waiter in self.gate.past_hope:
                _refuse(waiter, _past_hope(waiter.deadline - now))
            self.gate.past_hope = []
        self._arm(again)

    def close(self) -> None:
        """Stop the timer."""
        self._arm(inf)
        self._gathering = None

    def _look_when_all_are_there(self) -> None:
        """What is scarce goes by all that is queued; a batch's items come one by one, over some turns of the loop."""
        self.gate.put_off()
        if self._gathering is None:
            self._gathering = Gathering(self.gate.queued, time.perf_counter() + _GATHERED_S)
            asyncio.get_running_loop().call_soon(self._look_if_gathered)

    def _look_if_gathered(self) -> None:
        gathering = self._gathering
        if gathering is None:
            return
        if gathering.goes_on(self.gate.queued, time.perf_counter()):
            asyncio.get_running_loop().call_soon(self._look_if_gathered)
        else:
            self._gathering = None
            self.look()

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            if at == self._timer_at:
                return
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at < inf:
            delay_s = max(SOONEST_S, at - time.perf_counter())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.look()


def _refuse(waiter: Waiter, error: Rejected) -> None:
    if waiter.future is not None and not waiter.future.done():
        waiter.future.set_exception(error)


def _circuit_open(trial_s: float) -> CircuitOpen:
    return CircuitOpen(
        f"the upstream fails and is given a rest; the next trial is due in {trial_s:.3g} s", retry_after_s=trial_s
    )


def _unreachable(needed_s: float) -> DeadlineUnreachable:
    return DeadlineUnreachable(
        f"it would have to wait {needed_s:.3g} s at least, which is past its deadline; allow more time or send less",
        retry_after_s=needed_s,
    )


def _past_hope(left_s: float) -> DeadlineUnreachable:
    return DeadlineUnreachable(
        f"its turn came {left_s:.3g} s before its deadline, and of late the upstream answered nobody as quickly; "
        "allow more time or send less"
    )
