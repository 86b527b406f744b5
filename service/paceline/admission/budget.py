"""One budget: the allowance shared by all calls with one partition key, and who waits for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from math import inf

from paceline.admission.copies import Copies
from paceline.admission.lineup import BatchFlow, Lane, Lineup, Waiter
from paceline.admission.pause import ThrottlePause
from paceline.model import Cost, Priority, Rate, Verdict, WaitReason
from paceline.rate.feedback import Feedback
from paceline.rate.learner import UNIT, Learner
from paceline.rate.rate_info import RateInfo
from paceline.rate.round_trip import RoundTripFloor
from paceline.rate.spending import Spending
from paceline.rate.window import Window

_ADAPTIVE = Lane.ADAPTIVE
_RATE = WaitReason.RATE
_SUCCESS, _THROTTLED = Verdict.SUCCESS, Verdict.THROTTLED
_CALM_S = 3600.0
_LET_THROUGH = (Verdict.SUCCESS, Verdict.PERMANENT)
"""Whatever else it says, an answer that was not refused for its rate."""


class Budget:
    """Windows, throttle pause and the two lanes of one partition."""

    __slots__ = ("_declared_transit_s", "_floor", "_throttled_at", "dropped", "feedback", "granted", "key", "learner",
                 "lineups", "pause", "queued", "spending", "transit_s", "windows")  # fmt: skip

    def __init__(self, key: str, rates: Sequence[Rate], transit_s: float, max_pause_s: float) -> None:
        self.key = key
        self.windows = [Window(rate) for rate in rates]
        self.pause = ThrottlePause(max_pause_s)
        self.lineups = (Lineup(self, Lane.CLASSIC), Lineup(self, Lane.ADAPTIVE))
        self.feedback = Feedback(max_pause_s)
        self.spending = Spending()
        self.learner = Learner()
        """Fed while nothing is declared or told."""
        self.queued: dict[str, float] = {}
        """What all its waiters ask for, by unit."""
        self.granted: set[Waiter] = set()
        """Who was granted and is not settled yet."""
        self.dropped = False
        """Forgotten by its gate, so that nobody may wait here any more."""
        self._declared_transit_s = self.transit_s = transit_s
        self._throttled_at = -inf
        self._floor = RoundTripFloor()

    @property
    def learned(self) -> list[Window]:
        """What headers told with its length, and the rate learned without being told."""
        learned = self.learner.window
        return self.feedback.windows if learned is None else [*self.feedback.windows, learned]

    def due(self, waiter: Waiter, now: float) -> tuple[float, WaitReason]:
        """When this waiter may be paid for at the earliest, and what holds it until then."""
        flow, cost = waiter.flow, waiter.cost
        adaptive = flow.lineup.lane is _ADAPTIVE
        if adaptive and self.pause.throttled is not None:
            until = self.pause.blocked_until(now)
            if until > now:
                return until, WaitReason.PAUSE
        due = -inf
        for window in self.windows:
            amount = cost.get(window.rate.unit)
            if amount:
                at = window.due(amount, now, self.transit_s)
                if at > due:
                    due = at
        if not adaptive:
            return due, _RATE
        if self.feedback.last is not None:
            due = max(due, self.feedback.due(cost, flow.priority, self.queued, self.spending, now))
            for window in self.feedback.windows:
                amount = cost.get(window.rate.unit)
                if amount:
                    due = max(due, window.due(min(amount, window.rate.limit), now, self.transit_s))
        if (learned := self.learner.window) is not None:
            amount = min(cost[UNIT], learned.rate.limit)  # however slow the rate, what waits can be paid
            due = max(due, learned.due(amount, now, 0.0))
        return due, _RATE

    @property
    def steady(self) -> bool:
        """Only what was declared binds: no pause stands, and nothing was told or learned."""
        return (
            self.pause.throttled is None
            and self.feedback.last is None
            and self.learner.window is None
            and self.transit_s == self._declared_transit_s
        )

    @property
    def _untold(self) -> bool:
        """Nothing is declared or told, so the rate has to be learned."""
        return not self.windows and not self.feedback.limits

    def soonest(self, flow: BatchFlow, ahead: Mapping[str, float], cost: Cost, now: float) -> float:
        """A lower bound of when a waiter of this batch can be served: pause, windows, its own batch ahead."""
        soonest = now
        if flow.lineup.lane is Lane.ADAPTIVE:
            soonest = max(soonest, self.pause.until if self.pause.throttled is not None else -inf)
        for window in self.windows:
            unit = window.rate.unit
            amount = cost.get(unit)
            if amount:
                soonest = max(soonest, window.soonest(ahead.get(unit, 0.0), amount, now))
        if flow.own is not None:
            soonest = max(soonest, flow.own.soonest(ahead.get("requests", 0.0), cost, now))
        return soonest

    def take(self, waiter: Waiter, moment: float, held: bool, now: float) -> None:
        """Take the tokens of every window."""
        cost = waiter.cost
        for window in self.windows:
            amount = cost.get(window.rate.unit)
            if amount:
                waiter.holds.append((window, window.take(amount, moment, held=held)))
        if self.feedback.last is not None:
            for window in self.feedback.windows:
                _count(window, waiter, moment)
        adaptive = waiter.flow.lineup.lane is _ADAPTIVE
        if (learned := self.learner.window) is not None:
            amount = cost[UNIT]
            hold = self.learner.take(amount, moment, held=held, now=now) if adaptive else learned.count(amount, now)
            waiter.holds.append((learned, hold))
        self.spending.granted(waiter.amounts)
        self.granted.add(waiter)
        if adaptive and self.pause.throttled is not None:
            self.pause.probe_sent(now)

    def written(self, waiter: Waiter, now: float) -> None:
        for window, hold in waiter.holds:
            window.written(hold, now)
        self.spending.wrote(waiter.amounts)
        waiter.marks = dict(self.spending.written)
        if self._untold:
            self.learner.wrote(waiter.cost[UNIT], now)

    def settle(self, waiter: Waiter, answered_at: float | None, reused: bool) -> float:
        """The tokens of a call that is over: given back if it was never written, else as the windows say.

        Returns the soonest that any are back because of that, `inf` where it changes nothing.
        """
        self.granted.discard(waiter)
        written_at = waiter.written_at
        self.spending.over(waiter.amounts, written_at is not None)
        if written_at is not None and answered_at is not None and reused:
            self._floor.add(answered_at - written_at, answered_at)
        if written_at is None:
            for window, hold in waiter.holds:
                window.give_back(hold)
            return -inf
        back_at = inf
        if answered_at is not None:
            for window, hold in waiter.holds:
                if window is not self.learner.window:
                    at = window.answered(hold, answered_at, self._floor.floor_s, self.transit_s)
                    if at < back_at:
                        back_at = at
        return back_at

    def spends_the_kept(self, waiter: Waiter, now: float) -> bool:
        """Whether rate headers left so little that this cost would come out of what is kept for `interactive`."""
        flow = waiter.flow
        return (
            self.feedback.last is not None
            and flow.lineup.lane is _ADAPTIVE
            and flow.priority is not Priority.INTERACTIVE
            and self.feedback.spends_the_kept(waiter.cost, self.spending, now)
        )

    def hear(self, waiter: Waiter, info: RateInfo, now: float) -> None:
        """An answer told something of the upstream's limits."""
        if waiter.written_at is None:
            return
        for window in self.feedback.read(info, self.spending, waiter.written_at, waiter.marks, now):
            same = [other for other in self.windows if other.rate.unit == window.rate.unit]
            if same:
                window.seed(max(same, key=lambda other: other.rate.per_s))
            for grant in self.granted:
                _count(window, grant, -inf)
        if not self._untold:
            self.learner = Learner()

    def feed(self, waiter: Waiter, verdict: Verdict, now: float, retry_after_s: float | None) -> float | None:
        """Learn from a verdict. Returns how long the budget pauses for it, where it does."""
        written_at = waiter.written_at
        if written_at is not None and verdict in _LET_THROUGH and self.learner.passed(written_at, now):
            learned = self.learner.window
            assert learned is not None
            for grant in self.granted:
                _count(learned, grant, -inf)
        if verdict is _SUCCESS and written_at is not None:
            self.pause.succeeded(written_at)
            if now - self._throttled_at > _CALM_S:
                self.transit_s = self._declared_transit_s
        elif verdict is _THROTTLED and written_at is not None:
            if self.windows and written_at > self._throttled_at:
                # Refused within the limit: a request takes longer to be counted than was thought.
                self.transit_s = min(2 * self.transit_s, max(window.rate.per_s for window in self.windows))
                self._throttled_at = now
            if self.pause.alone(waiter.receipt, now):
                return None
            if self._untold:
                answered = self.learner.refused(waiter.cost[UNIT], written_at, now, retry_after_s or 0.0)
                if answered and not retry_after_s:
                    return 0.0
            return self.pause.throttle(waiter.receipt, written_at, retry_after_s, now)
        elif waiter.granted_at is not None:
            self.pause.unanswered(waiter.granted_at)
        return None

    def retune(self, rates: Sequence[Rate], now: float) -> None:
        """Change the windows and keep what was counted."""
        before = {(window.rate.per_s, window.rate.unit): window for window in self.windows}
        known = list(self.windows)
        self.windows = []
        for rate in rates:
            window = before.pop((rate.per_s, rate.unit), None)
            if window is not None:
                window.retune(rate, now)
            else:
                window = _seeded(rate, known, self.granted)
            self.windows.append(window)
        if not self._untold:
            self.learner = Learner()

    def set_declared(self, transit_s: float, max_pause_s: float) -> None:
        """Change what the operator declared beside the windows; what was learned stays."""
        learned_s = self.transit_s if self.transit_s != self._declared_transit_s else 0.0
        self._declared_transit_s = transit_s
        self.transit_s = max(transit_s, learned_s)
        self.pause.max_pause_s = self.feedback.ceiling_s = max_pause_s

    def forget_learned(self) -> None:
        """Pauses, transit and round trip as on the first day. Counted sends stay counted."""
        self.pause.clear()
        self.transit_s = self._declared_transit_s
        self._throttled_at = -inf
        self._floor = RoundTripFloor()
        self.feedback = Feedback(self.pause.max_pause_s)
        self.learner = Learner()

    def fork(self, copies: Copies) -> Budget:
        """A copy to be run ahead of time by itself, but for who waits: see `Gate.fork`."""
        fork = copy(self)
        fork.windows = [window.fork(copies.holds) for window in self.windows]
        fork.feedback = self.feedback.fork(copies.holds)
        fork.learner = self.learner.fork(copies.holds)
        before = (*self.windows, *self.learned)
        copies.windows.update(zip(before, (*fork.windows, *fork.learned), strict=True))
        fork.pause, fork._floor = copy(self.pause), copy(self._floor)
        fork.spending, fork.queued = self.spending.fork(), dict(self.queued)
        fork.lineups = (self.lineups[0].fork(fork, copies), self.lineups[1].fork(fork, copies))
        fork.granted = set()
        for grant in self.granted:
            flow = grant.flow.fork_into(fork.lineups[grant.flow.lineup.lane], copies)
            fork.granted.add(grant.fork(flow, copies))
        return fork

    def idle(self, now: float, longest_s: float) -> bool:
        """Nobody waits or is in flight, nothing is paused, and every window of at most `longest_s` is free."""
        return (
            not self.granted
            and not any(lineup.flows for lineup in self.lineups)
            and self.pause.until <= now
            and (longest_s < inf or self.learner.idle(now))
            and all(
                window.remaining(now, self.transit_s) >= window.rate.limit
                for window in self.windows
                if window.rate.per_s <= longest_s
            )
        )


def _seeded(rate: Rate, known: Sequence[Window], granted: Iterable[Waiter]) -> Window:
    """A window that was not there before, counting what the others of its unit still remember."""
    window = Window(rate)
    same = [other for other in known if other.rate.unit == rate.unit]
    if same:
        window.seed(max(same, key=lambda other: other.rate.per_s))
    for waiter in granted:
        _count(window, waiter, -inf)
    return window


def _count(window: Window, waiter: Waiter, moment: float) -> None:
    """Count a grant in a window, whether or not the window bound it."""
    amount = waiter.cost.get(window.rate.unit)
    if amount:
        hold = window.take(amount, moment)
        waiter.holds.append((window, hold))
        if waiter.written_at is not None:
            window.written(hold, waiter.written_at)
