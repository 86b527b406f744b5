"""One budget: the rate windows, the throttle pause and the learned limits that all calls of one partition key share.

The queues before it are above: see `lane_queue.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from math import inf

from paceline.admission.attempt import Attempt, count_grant
from paceline.admission.lane import Lane
from paceline.admission.throttle_pause import ThrottlePause
from paceline.model import Priority, Rate, Verdict, WaitReason
from paceline.rate.header_limits import HeaderLimits
from paceline.rate.learner import LEARNED_UNIT, RateLearner
from paceline.rate.rate_info import RateInfo
from paceline.rate.round_trip import RoundTripFloor
from paceline.rate.usage import UsageCounters
from paceline.rate.window import CopyMemo, RateWindow

_ADAPTIVE = Lane.ADAPTIVE
_RATE = WaitReason.RATE
_SUCCESS, _THROTTLED = Verdict.SUCCESS, Verdict.THROTTLED
_TRANSIT_RESET_AFTER_S = 3600.0
_ACCEPTED_VERDICTS = (Verdict.SUCCESS, Verdict.PERMANENT)
"""Verdicts on responses that were not refused for their rate."""


class Budget:
    """Windows, throttle pause and learned limits of one partition."""

    __slots__ = (
        "_declared_transit_s", "_last_throttled_at", "_round_trip_floor", "header_limits", "is_evicted",
        "key", "learner", "queued_amounts", "throttle_pause", "transit_s", "unsettled_grants", "usage",
        "windows",
    )  # fmt: skip

    def __init__(self, key: str, rates: Sequence[Rate], transit_s: float, max_pause_s: float) -> None:
        self.key = key
        self.windows = [RateWindow(rate) for rate in rates]
        self.throttle_pause = ThrottlePause(max_pause_s)
        self.header_limits = HeaderLimits(max_pause_s)
        self.usage = UsageCounters()
        self.learner = RateLearner()
        """Learns while no limit is declared or advertised."""
        self.queued_amounts: dict[str, float] = {}
        """The total cost of all waiters before it, by unit."""
        self.unsettled_grants: set[Attempt] = set()
        """Attempts that were granted and are not settled yet."""
        self.is_evicted = False
        """Dropped by its gate: no attempt may wait for it any more."""
        self._declared_transit_s = self.transit_s = transit_s
        self._last_throttled_at = -inf
        self._round_trip_floor = RoundTripFloor()

    @property
    def learned_windows(self) -> list[RateWindow]:
        """The windows that headers advertised with their length, and the rate learned without that."""
        learned = self.learner.window
        return self.header_limits.counted_windows if learned is None else [*self.header_limits.counted_windows, learned]

    def due_at(self, waiter: Attempt, now: float) -> tuple[float, WaitReason]:
        """Return when this waiter can be paid for at the earliest, and what blocks it until then."""
        cost = waiter.cost
        adaptive = waiter.lane is _ADAPTIVE
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
            due_at = max(due_at, self.header_limits.due_at(cost, waiter.priority, self.queued_amounts, self.usage, now))
            for window in self.header_limits.counted_windows:
                amount = cost.get(window.rate.unit)
                if amount:
                    due_at = max(due_at, window.due_at(min(amount, window.rate.limit), now, self.transit_s))
        if (learned := self.learner.window) is not None:
            amount = min(cost[LEARNED_UNIT], learned.rate.limit)  # capped, so that even at a slow rate it can be paid
            due_at = max(due_at, learned.due_at(amount, now, 0.0))
        return due_at, _RATE

    @property
    def has_only_declared_limits(self) -> bool:
        """Whether only the declared limits bind: no pause, nothing advertised, nothing learned."""
        return (
            self.throttle_pause.throttled_receipt is None
            and self.header_limits.last_info is None
            and self.learner.window is None
            and self.transit_s == self._declared_transit_s
        )

    @property
    def _must_learn_rate(self) -> bool:
        """Whether no limit is declared or advertised, so that the rate has to be learned."""
        return not self.windows and not self.header_limits.has_limit

    def take(self, waiter: Attempt, allowed_at: float, rate_bound: bool, now: float) -> None:
        """Take the tokens of a grant from every window."""
        cost = waiter.cost
        for window in self.windows:
            amount = cost.get(window.rate.unit)
            if amount:
                waiter.holds.append((window, window.take(amount, allowed_at, rate_bound=rate_bound)))
        if self.header_limits.last_info is not None:
            for window in self.header_limits.counted_windows:
                count_grant(window, waiter, allowed_at)
        adaptive = waiter.lane is _ADAPTIVE
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

    def mark_written(self, waiter: Attempt, now: float) -> None:
        for window, hold in waiter.holds:
            window.mark_written(hold, now)
        self.usage.on_written(waiter.amounts)
        waiter.written_totals = dict(self.usage.written)
        if self._must_learn_rate:
            self.learner.on_written(waiter.cost[LEARNED_UNIT], now)

    def settle(self, waiter: Attempt, answered_at: float | None, reused: bool) -> float:
        """Release the tokens of a call that is over: at once if it was never written, else as the windows say.

        Returns the earliest moment that any are free because of that; `inf` where it changes nothing.
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

    def uses_interactive_reserve(self, waiter: Attempt, now: float) -> bool:
        """Whether, by rate headers, this cost would use what is reserved for `interactive`."""
        return (
            self.header_limits.last_info is not None
            and waiter.lane is _ADAPTIVE
            and waiter.priority is not Priority.INTERACTIVE
            and self.header_limits.uses_interactive_reserve(waiter.cost, self.usage, now)
        )

    def apply_rate_info(self, waiter: Attempt, info: RateInfo, now: float) -> None:
        """Apply the limits that the headers of a response advertise."""
        if waiter.written_at is None:
            return
        for window in self.header_limits.apply(info, self.usage, waiter.written_at, waiter.written_totals, now):
            same_unit = [other for other in self.windows if other.rate.unit == window.rate.unit]
            if same_unit:
                window.seed_from(max(same_unit, key=lambda other: other.rate.per_s))
            for grant in self.unsettled_grants:
                count_grant(window, grant, -inf)
        if not self._must_learn_rate:
            self.learner = RateLearner()

    def record_verdict(
        self, waiter: Attempt, verdict: Verdict, now: float, retry_after_s: float | None
    ) -> float | None:
        """Learn from a verdict. Returns how long the budget pauses for it, or None."""
        written_at = waiter.written_at
        if written_at is not None and verdict in _ACCEPTED_VERDICTS and self.learner.on_accepted(written_at, now):
            learned = self.learner.window
            assert learned is not None
            for grant in self.unsettled_grants:
                count_grant(learned, grant, -inf)
        if verdict is _SUCCESS and written_at is not None:
            self.throttle_pause.on_success(written_at)
            if now - self._last_throttled_at > _TRANSIT_RESET_AFTER_S:
                self.transit_s = self._declared_transit_s
        elif verdict is _THROTTLED and written_at is not None:
            if self.windows and written_at > self._last_throttled_at:
                # Refused within the limit: a request takes longer to be counted than assumed.
                self.transit_s = min(2 * self.transit_s, max(window.rate.per_s for window in self.windows))
                self._last_throttled_at = now
            item_specific = self.throttle_pause.is_item_specific(waiter.receipt)
            waiter.receipt.throttled_at = now
            if item_specific:
                self.throttle_pause.on_item_specific_throttle()
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
        """Change the windows and keep what they counted."""
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
        """Change what the operator declared in addition to the windows; what was learned stays."""
        learned_s = self.transit_s if self.transit_s != self._declared_transit_s else 0.0
        self._declared_transit_s = transit_s
        self.transit_s = max(transit_s, learned_s)
        self.throttle_pause.max_pause_s = self.header_limits.max_wait_s = max_pause_s

    def reset_learned(self) -> None:
        """Forget pauses, transit and round trip. Counted sends stay counted."""
        self.throttle_pause.clear()
        self.transit_s = self._declared_transit_s
        self._last_throttled_at = -inf
        self._round_trip_floor = RoundTripFloor()
        self.header_limits = HeaderLimits(self.throttle_pause.max_pause_s)
        self.learner = RateLearner()

    def copy(self, memo: CopyMemo) -> Budget:
        """Copy this budget and its unsettled grants."""
        clone: Budget | None = memo.get(self)
        if clone is None:
            clone = memo[self] = copy(self)
            clone.windows = [window.copy(memo) for window in self.windows]
            clone.header_limits, clone.learner = self.header_limits.copy(memo), self.learner.copy(memo)
            clone.throttle_pause, clone._round_trip_floor = copy(self.throttle_pause), copy(self._round_trip_floor)
            clone.usage, clone.queued_amounts = self.usage.copy(), dict(self.queued_amounts)
            # Last, as these refer to the copies of this budget and its windows.
            clone.unsettled_grants = {grant.copy(memo) for grant in self.unsettled_grants}
        return clone

    def is_idle(self, now: float, max_window_s: float) -> bool:
        """Whether no call is in flight, nothing is paused, and every window of at most `max_window_s` is free."""
        return (
            not self.unsettled_grants
            and self.throttle_pause.paused_until <= now
            and (max_window_s < inf or self.learner.is_idle(now))
            and all(
                window.remaining(now, self.transit_s) >= window.rate.limit
                for window in self.windows
                if window.rate.per_s <= max_window_s
            )
        )


def _seeded_window(rate: Rate, windows: Sequence[RateWindow], unsettled_grants: Iterable[Attempt]) -> RateWindow:
    """Return a new window that counts what the others of its unit still remember."""
    window = RateWindow(rate)
    same_unit = [other for other in windows if other.rate.unit == rate.unit]
    if same_unit:
        window.seed_from(max(same_unit, key=lambda other: other.rate.per_s))
    for waiter in unsettled_grants:
        count_grant(window, waiter, -inf)
    return window
