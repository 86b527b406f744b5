"""One budget: the allowance shared by all calls with one partition key, and who waits for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from math import inf

from paceline.admission.copy_memo import CopyMemo
from paceline.admission.lane_queue import BatchFlow, Lane, LaneQueue, Waiter
from paceline.admission.throttle_pause import ThrottlePause
from paceline.model import Cost, Priority, Rate, Verdict, WaitReason
from paceline.rate.header_limits import HeaderLimits
from paceline.rate.learner import LEARNED_UNIT, RateLearner
from paceline.rate.rate_info import RateInfo
from paceline.rate.round_trip import RoundTripFloor
from paceline.rate.usage import UsageCounters
from paceline.rate.window import RateWindow

_ADAPTIVE = Lane.ADAPTIVE
_RATE = WaitReason.RATE
_SUCCESS, _THROTTLED = Verdict.SUCCESS, Verdict.THROTTLED
_TRANSIT_RESET_AFTER_S = 3600.0
_ACCEPTED_VERDICTS = (Verdict.SUCCESS, Verdict.PERMANENT)
"""Whatever else it says, an answer that was not refused for its rate."""


class Budget:
    """Windows, throttle pause and the two lanes of one partition."""

    __slots__ = (
        "_declared_transit_s",
        "_last_throttled_at",
        "_round_trip_floor",
        "header_limits",
        "is_evicted",
        "key",
        "lane_queues",
        "learner",
        "queued_amounts",
        "throttle_pause",
        "transit_s",
        "unsettled_grants",
        "usage",
        "windows",
    )  # fmt: skip

    def __init__(self, key: str, rates: Sequence[Rate], transit_s: float, max_pause_s: float) -> None:
        self.key = key
        self.windows = [RateWindow(rate) for rate in rates]
        self.throttle_pause = ThrottlePause(max_pause_s)
        self.lane_queues = (LaneQueue(self, Lane.CLASSIC), LaneQueue(self, Lane.ADAPTIVE))
        self.header_limits = HeaderLimits(max_pause_s)
        self.usage = UsageCounters()
        self.learner = RateLearner()
        """Fed while nothing is declared or told."""
        self.queued_amounts: dict[str, float] = {}
        """What all its waiters ask for, by unit."""
        self.unsettled_grants: set[Waiter] = set()
        """Who was granted and is not settled yet."""
        self.is_evicted = False
        """Forgotten by its gate, so that nobody may wait here any more."""
        self._declared_transit_s = self.transit_s = transit_s
        self._last_throttled_at = -inf
        self._round_trip_floor = RoundTripFloor()

    @property
    def learned_windows(self) -> list[RateWindow]:
        """What headers told with its length, and the rate learned without being told."""
        learned = self.learner.window
        return self.header_limits.counted_windows if learned is None else [*self.header_limits.counted_windows, learned]

    def due_at(self, waiter: Waiter, now: float) -> tuple[float, WaitReason]:
        """When this waiter may be paid for at the earliest, and what holds it until then."""
        flow, cost = waiter.flow, waiter.cost
        adaptive = flow.lane_queue.lane is _ADAPTIVE
        if adaptive and self.throttle_pause.throttled_receipt is not None:
            until = self.throttle_pause.blocked_until(now)
            if until > now:
                return until, WaitReason.PAUSE
        due_at = -inf
        for window in self.windows:
            amount = cost.get(window.rate.unit)
            if amount:
                window_due_at = window.due_at(amount, now, self.transit_s)
                if window_due_at > due_at:
                    due_at = window_due_at
        if not adaptive:
            return due_at, _RATE
        if self.header_limits.last_info is not None:
            due_at = max(due_at, self.header_limits.due_at(cost, flow.priority, self.queued_amounts, self.usage, now))
            for window in self.header_limits.counted_windows:
                amount = cost.get(window.rate.unit)
                if amount:
                    due_at = max(due_at, window.due_at(min(amount, window.rate.limit), now, self.transit_s))
        if (learned := self.learner.window) is not None:
            amount = min(cost[LEARNED_UNIT], learned.rate.limit)  # however slow the rate, what waits can be paid
            due_at = max(due_at, learned.due_at(amount, now, 0.0))
        return due_at, _RATE

    @property
    def has_only_declared_limits(self) -> bool:
        """Only what was declared binds: no pause stands, and nothing was told or learned."""
        return (
            self.throttle_pause.throttled_receipt is None
            and self.header_limits.last_info is None
            and self.learner.window is None
            and self.transit_s == self._declared_transit_s
        )

    @property
    def _must_learn_rate(self) -> bool:
        """Nothing is declared or told, so the rate has to be learned."""
        return not self.windows and not self.header_limits.has_limit

    def earliest_possible_at(self, flow: BatchFlow, ahead: Mapping[str, float], cost: Cost, now: float) -> float:
        """A lower bound of when a waiter of this batch can be served: pause, windows, its own batch ahead."""
        earliest_at = now
        if flow.lane_queue.lane is Lane.ADAPTIVE:
            earliest_at = max(
                earliest_at,
                self.throttle_pause.paused_until if self.throttle_pause.throttled_receipt is not None else -inf,
            )
        for window in self.windows:
            unit = window.rate.unit
            amount = cost.get(unit)
            if amount:
                earliest_at = max(earliest_at, window.earliest_possible_at(ahead.get(unit, 0.0), amount, now))
        if flow.batch_pool is not None:
            earliest_at = max(earliest_at, flow.batch_pool.earliest_possible_at(ahead.get("requests", 0.0), cost, now))
        return earliest_at

    def take(self, waiter: Waiter, allowed_at: float, rate_bound: bool, now: float) -> None:
        """Take the tokens of every window."""
        cost = waiter.cost
        for window in self.windows:
            amount = cost.get(window.rate.unit)
            if amount:
                waiter.holds.append((window, window.take(amount, allowed_at, rate_bound=rate_bound)))
        if self.header_limits.last_info is not None:
            for window in self.header_limits.counted_windows:
                _count_grant(window, waiter, allowed_at)
        adaptive = waiter.flow.lane_queue.lane is _ADAPTIVE
        if (learned := self.learner.window) is not None:
            amount = cost[LEARNED_UNIT]
            hold = (
                self.learner.take(amount, allowed_at, rate_bound=rate_bound, now=now)
                if adaptive
                else learned.take_unbound(amount, now)
            )
            waiter.holds.append((learned, hold))
        self.usage.on_grant(waiter.amounts)
        self.unsettled_grants.add(waiter)
        if adaptive and self.throttle_pause.throttled_receipt is not None:
            self.throttle_pause.on_probe_sent(now)

    def mark_written(self, waiter: Waiter, now: float) -> None:
        for window, hold in waiter.holds:
            window.mark_written(hold, now)
        self.usage.on_written(waiter.amounts)
        waiter.written_totals = dict(self.usage.written)
        if self._must_learn_rate:
            self.learner.on_written(waiter.cost[LEARNED_UNIT], now)

    def settle(self, waiter: Waiter, answered_at: float | None, reused: bool) -> float:
        """The tokens of a call that is over: given back if it was never written, else as the windows say.

        Returns the soonest that any are back because of that, `inf` where it changes nothing.
        """
        self.unsettled_grants.discard(waiter)
        written_at = waiter.written_at
        self.usage.on_settled(waiter.amounts, written_at is not None)
        if written_at is not None and answered_at is not None and reused:
            self._round_trip_floor.add(answered_at - written_at, answered_at)
        if written_at is None:
            for window, hold in waiter.holds:
                window.release(hold)
            return -inf
        tokens_free_at = inf
        if answered_at is not None:
            for window, hold in waiter.holds:
                if window is not self.learner.window:
                    free_at = window.mark_answered(hold, answered_at, self._round_trip_floor.floor_s, self.transit_s)
                    if free_at < tokens_free_at:
                        tokens_free_at = free_at
        return tokens_free_at

    def uses_interactive_reserve(self, waiter: Waiter, now: float) -> bool:
        """Whether rate headers left so little that this cost would come out of what is kept for `interactive`."""
        flow = waiter.flow
        return (
            self.header_limits.last_info is not None
            and flow.lane_queue.lane is _ADAPTIVE
            and flow.priority is not Priority.INTERACTIVE
            and self.header_limits.uses_interactive_reserve(waiter.cost, self.usage, now)
        )

    def apply_rate_info(self, waiter: Waiter, info: RateInfo, now: float) -> None:
        """An answer told something of the upstream's limits."""
        if waiter.written_at is None:
            return
        for window in self.header_limits.apply(info, self.usage, waiter.written_at, waiter.written_totals, now):
            same_unit = [other for other in self.windows if other.rate.unit == window.rate.unit]
            if same_unit:
                window.seed_from(max(same_unit, key=lambda other: other.rate.per_s))
            for grant in self.unsettled_grants:
                _count_grant(window, grant, -inf)
        if not self._must_learn_rate:
            self.learner = RateLearner()

    def record_verdict(self, waiter: Waiter, verdict: Verdict, now: float, retry_after_s: float | None) -> float | None:
        """Learn from a verdict. Returns how long the budget pauses for it, where it does."""
        written_at = waiter.written_at
        if written_at is not None and verdict in _ACCEPTED_VERDICTS and self.learner.on_accepted(written_at, now):
            learned = self.learner.window
            assert learned is not None
            for grant in self.unsettled_grants:
                _count_grant(learned, grant, -inf)
        if verdict is _SUCCESS and written_at is not None:
            self.throttle_pause.on_success(written_at)
            if now - self._last_throttled_at > _TRANSIT_RESET_AFTER_S:
                self.transit_s = self._declared_transit_s
        elif verdict is _THROTTLED and written_at is not None:
            if self.windows and written_at > self._last_throttled_at:
                # Refused within the limit: a request takes longer to be counted than was thought.
                self.transit_s = min(2 * self.transit_s, max(window.rate.per_s for window in self.windows))
                self._last_throttled_at = now
            if self.throttle_pause.is_item_specific(waiter.receipt, now):
                return None
            if self._must_learn_rate:
                rate_was_cut = self.learner.on_throttled(
                    waiter.cost[LEARNED_UNIT], written_at, now, retry_after_s or 0.0
                )
                if rate_was_cut and not retry_after_s:
                    return 0.0
            return self.throttle_pause.start_or_extend(waiter.receipt, written_at, retry_after_s, now)
        elif waiter.granted_at is not None:
            self.throttle_pause.on_inconclusive_probe(waiter.granted_at)
        return None

    def retune(self, rates: Sequence[Rate], now: float) -> None:
        """Change the windows and keep what was counted."""
        reusable = {(window.rate.per_s, window.rate.unit): window for window in self.windows}
        current = list(self.windows)
        self.windows = []
        for rate in rates:
            window = reusable.pop((rate.per_s, rate.unit), None)
            if window is not None:
                window.retune(rate, now)
            else:
                window = _seeded_window(rate, current, self.unsettled_grants)
            self.windows.append(window)
        if not self._must_learn_rate:
            self.learner = RateLearner()

    def set_declared_times(self, transit_s: float, max_pause_s: float) -> None:
        """Change what the operator declared beside the windows; what was learned stays."""
        learned_s = self.transit_s if self.transit_s != self._declared_transit_s else 0.0
        self._declared_transit_s = transit_s
        self.transit_s = max(transit_s, learned_s)
        self.throttle_pause.max_pause_s = self.header_limits.max_wait_s = max_pause_s

    def reset_learned(self) -> None:
        """Pauses, transit and round trip as on the first day. Counted sends stay counted."""
        self.throttle_pause.clear()
        self.transit_s = self._declared_transit_s
        self._last_throttled_at = -inf
        self._round_trip_floor = RoundTripFloor()
        self.header_limits = HeaderLimits(self.throttle_pause.max_pause_s)
        self.learner = RateLearner()

    def copy(self, memo: CopyMemo) -> Budget:
        """A copy to be run ahead of time by itself, but for who waits: see `Gate.fork`."""
        clone = copy(self)
        clone.windows = [window.copy(memo.holds) for window in self.windows]
        clone.header_limits = self.header_limits.copy(memo.holds)
        clone.learner = self.learner.copy(memo.holds)
        originals = (*self.windows, *self.learned_windows)
        memo.windows.update(zip(originals, (*clone.windows, *clone.learned_windows), strict=True))
        clone.throttle_pause, clone._round_trip_floor = copy(self.throttle_pause), copy(self._round_trip_floor)
        clone.usage, clone.queued_amounts = self.usage.copy(), dict(self.queued_amounts)
        clone.lane_queues = (self.lane_queues[0].copy(clone, memo), self.lane_queues[1].copy(clone, memo))
        clone.unsettled_grants = set()
        for grant in self.unsettled_grants:
            flow = grant.flow.copy_into(clone.lane_queues[grant.flow.lane_queue.lane], memo)
            clone.unsettled_grants.add(grant.copy(flow, memo))
        return clone

    def is_idle(self, now: float, max_window_s: float) -> bool:
        """Nobody waits or is in flight, nothing is paused, and every window of at most `longest_s` is free."""
        return (
            not self.unsettled_grants
            and not any(lane_queue.flows for lane_queue in self.lane_queues)
            and self.throttle_pause.paused_until <= now
            and (max_window_s < inf or self.learner.is_idle(now))
            and all(
                window.remaining(now, self.transit_s) >= window.rate.limit
                for window in self.windows
                if window.rate.per_s <= max_window_s
            )
        )


def _seeded_window(rate: Rate, windows: Sequence[RateWindow], unsettled_grants: Iterable[Waiter]) -> RateWindow:
    """A window that was not there before, counting what the others of its unit still remember."""
    window = RateWindow(rate)
    same_unit = [other for other in windows if other.rate.unit == rate.unit]
    if same_unit:
        window.seed_from(max(same_unit, key=lambda other: other.rate.per_s))
    for waiter in unsettled_grants:
        _count_grant(window, waiter, -inf)
    return window


def _count_grant(window: RateWindow, waiter: Waiter, allowed_at: float) -> None:
    """Count a grant in a window, whether or not the window bound it."""
    amount = waiter.cost.get(window.rate.unit)
    if amount:
        hold = window.take(amount, allowed_at)
        waiter.holds.append((window, hold))
        if waiter.written_at is not None:
            window.mark_written(hold, waiter.written_at)
