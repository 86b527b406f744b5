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

from paceline.admission.budget import Budget
from paceline.admission.copies import Copies
from paceline.admission.gate import Gate
from paceline.admission.lineup import BatchFlow, Waiter
from paceline.admission.shell import SOONEST_S
from paceline.model import Cost, Rate, Verdict

_AT_THE_GATE = 64
"""Of each batch, so many wait in the gate itself and the others behind."""
_EVENTS = 32
"""Between two yields of a run."""


class Demand:
    """What is asked of one budget from a moment on, and how long each of its windows alone would need for it."""

    __slots__ = ("_asked", "_windows")

    def __init__(self, budget: Budget, now: float) -> None:
        self._asked: dict[str, float] = {}
        self._windows = [
            (window, window.soonest(0.0, 0.0, now) - now, window.rate.limit - window.remaining(now, budget.transit_s))
            for window in (*budget.windows, *budget.learned)
        ]

    def add(self, cost: Cost) -> None:
        asked = self._asked
        for unit, amount in cost.items():
            asked[unit] = asked.get(unit, 0.0) + amount

    def least_s(self) -> Iterator[tuple[float, Rate]]:
        for window, smooth_s, held in self._windows:
            rate, asked = window.rate, self._asked.get(window.rate.unit, 0.0)
            if asked:
                turns = ceil((held + asked) / rate.limit - 1e-9) - 1
                yield max(smooth_s + asked * window.beat_s, turns * rate.per_s), rate


class Forecast:
    """Several gates on one clock, which starts at `now`. `on_settled` is told of every call that is over."""

    def __init__(self, now: float, on_settled: Callable[[Waiter], None]) -> None:
        self.now = now
        self.on_settled = on_settled
        self.copies = Copies()
        self.over = False
        """Set it, and a run stops."""
        self._looking = False
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._sequence = count()
        self._restless: dict[Course, None] = {}

    def take(self, gate: Gate, call_s: float, keys: Collection[str], *, reuses: bool = True) -> Course:
        """Copy a gate as it stands, with the budgets of `keys`; its calls take `call_s`, on kept connections or not."""
        return Course(self, gate, call_s, keys, reuses)

    def at(self, moment: float, act: Callable[[Any], None], subject: object = None) -> None:
        """Do something at a moment, or now where that is past."""
        heappush(self._events, (moment, next(self._sequence), act, subject))

    def stir(self, course: Course) -> None:
        """Something changed: look who may go, before anything else does. Looks do not nest, as in the gates' shells."""
        self._restless[course] = None
        if not self._looking:
            self._looking = True
            while self._restless:
                course = next(iter(self._restless))
                del self._restless[course]
                course.look()
            self._looking = False

    def run(self) -> Iterator[None]:
        """Let time pass until it is `over`, or until nothing more can happen."""
        events, steps = self._events, 0
        while events and not self.over:
            moment, _, act, subject = heappop(events)
            if moment > self.now:
                self.now = moment
            act(subject)
            steps += 1
            if steps % _EVENTS == 0:
                yield


class Course:
    """One gate's copy on its way ahead."""

    def __init__(self, forecast: Forecast, gate: Gate, call_s: float, keys: Collection[str], reuses: bool) -> None:
        self.call_s = call_s
        self._reuses = reuses
        self.grants = 0
        """How many went, of everybody, while somebody `watched` was left."""
        self.watched = False
        self._forecast = forecast
        self._copies = forecast.copies
        self._lines: dict[BatchFlow, deque[Waiter]] = {}
        self._demands: dict[Budget, Demand] = {}
        self._timer_at = inf
        known = len(self._copies.flows)
        self.gate = gate.fork(self._copies, keys, lambda: forecast.stir(self))
        self.gate.quickest_s = self.gate.quickest_s or call_s
        self.gate.queued = 0
        self._told = any(budget.feedback for budget in self.gate.budgets)
        for flow, fork in list(islice(self._copies.flows.items(), known, None)):
            self._queue(flow, fork)
        for budget in self.gate.budgets:
            for grant in budget.granted:
                forecast.at(forecast.now, self._resume, grant)
        forecast.at(forecast.now, forecast.stir, self)

    def watch(self, flow: BatchFlow) -> None:
        """Count what is spent of this batch's budget until `watched` is false again."""
        self.watched = True
        budget = flow.lineup.budget
        if budget not in self._demands:
            self._demands[budget] = Demand(budget, self._forecast.now)

    def least_s(self) -> Iterator[tuple[float, Rate]]:
        """How long each window alone would have kept what went through it."""
        for demand in self._demands.values():
            yield from demand.least_s()

    def offer(self, waiter: Waiter) -> None:
        """Somebody joins the queue."""
        line = self._lines.get(waiter.flow)
        if line or len(waiter.flow.waiters) >= _AT_THE_GATE:
            if line is None:
                line = self._lines[waiter.flow] = deque()
            line.append(waiter)
            self._count(waiter.flow, waiter, 1)
        else:
            self._enter(waiter)

    def look(self) -> None:
        """Grant all that may go now; their calls begin."""
        forecast, gate, lines, over = self._forecast, self.gate, self._lines, self._over
        now = forecast.now
        over_at = now + self.call_s
        granted, again = gate.look(now)
        if gate.past_hope:
            for waiter in gate.past_hope:
                if line := lines.get(waiter.flow):
                    self._next(waiter.flow, line)
            gate.past_hope = []
        due = False
        for waiter in granted:
            if gate.written(waiter, now):
                due = True
            forecast.at(over_at if over_at < waiter.deadline else waiter.deadline, over, waiter)
            flow = waiter.flow
            if lines and (line := lines.get(flow)):
                self._next(flow, line)
            if self.watched:
                self.grants += 1
                if (demand := self._demands.get(flow.lineup.budget)) is not None:
                    demand.add(waiter.cost)
        if again < inf and again != self._timer_at:
            self._timer_at = again
            forecast.at(max(again, now + SOONEST_S), self._ring, again)
        if due:
            forecast.stir(self)  # tokens that were only waited for because they were not written

    def _queue(self, flow: BatchFlow, fork: BatchFlow) -> None:
        """Those who wait now: the first at the gate, the others behind; all leave at their deadline."""
        if not flow.waiters:
            return
        for waiter in islice(flow.waiters, _AT_THE_GATE):
            fork.waiters[waiter.fork(fork, self._copies)] = None
        self.gate.queued += len(fork.waiters)
        if len(flow.waiters) > _AT_THE_GATE:
            self._lines[fork] = deque(islice(flow.waiters, _AT_THE_GATE, None))
        self._expire_at(next(reversed(flow.waiters)).deadline, fork)

    def _expire_at(self, deadline: float, flow: BatchFlow) -> None:
        if deadline < inf:
            self._forecast.at(deadline, self._expire, flow)

    def _expire(self, flow: BatchFlow) -> None:
        now = self._forecast.now
        line = self._lines.pop(flow, None) or deque()
        for waiter in line:
            if waiter.deadline <= now:
                self._count(flow, waiter, -1)
        line = deque(waiter for waiter in line if waiter.deadline > now)
        for waiter in [waiter for waiter in flow.waiters if waiter.deadline <= now]:
            self.gate.withdraw(waiter, now)
        if line:
            self._lines[flow] = line
            for _ in range(min(len(line), _AT_THE_GATE - len(flow.waiters))):
                self._next(flow, line)
        left = [*flow.waiters, *line]
        if left:
            self._expire_at(max(waiter.deadline for waiter in left), flow)
        self._forecast.stir(self)

    def _next(self, flow: BatchFlow, line: deque[Waiter]) -> None:
        waiter = line.popleft()
        if self._told:
            self._count(flow, waiter, -1)
        if waiter.flow is not flow:
            waiter = waiter.fork(flow, self._copies)
        if self.gate.offer(waiter, self._forecast.now):
            self._forecast.stir(self)

    def _count(self, flow: BatchFlow, waiter: Waiter, sign: int) -> None:
        """Those behind count as queued too, where somebody asks: what remains by rate headers is spent by it."""
        if not self._told:
            return
        queued = flow.lineup.budget.queued
        for unit, amount in waiter.cost.items():
            queued[unit] = queued.get(unit, 0.0) + sign * amount

    def _enter(self, waiter: Waiter) -> None:
        if self.gate.offer(waiter, self._forecast.now):
            self._forecast.stir(self)

    def _ring(self, moment: float) -> None:
        if moment == self._timer_at:
            self._timer_at = inf
            self._forecast.stir(self)

    def _resume(self, grant: Waiter) -> None:
        """A call that is in flight already: it takes what is left of its time."""
        now = self._forecast.now
        if grant.written_at is None:
            self.gate.written(grant, now)
            self._forecast.stir(self)
        assert grant.granted_at is not None
        self._forecast.at(min(max(now, grant.granted_at + self.call_s), grant.deadline), self._over, grant)

    def _over(self, waiter: Waiter) -> None:
        now, gate = self._forecast.now, self.gate
        if now < waiter.deadline:
            gate.settle(waiter, Verdict.SUCCESS, now, answered_at=now, reused=self._reuses, healthy=True)
        else:
            gate.settle(waiter, Verdict.IGNORED, now)
        if gate.ready or self._timer_at <= now:
            self._forecast.stir(self)
        self._forecast.on_settled(waiter)
