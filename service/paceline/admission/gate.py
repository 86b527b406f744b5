"""The gate of one upstream: who may send now, and if nobody, when to look again.

Rules:

* a waiter is granted when, at one moment, nothing is paused, a permit is free and every rate window has its tokens;
  permit and tokens are then taken together, so nobody holds the one while waiting for the other;
* what the operator declared binds everybody; what was learned (throttle pauses, the adaptive limit) binds the adaptive
  lane only, but is fed by everybody;
* the head of the queue is never skipped for a cheaper waiter behind it; a class or batch that may not go now (bulk
  without a spare permit, a batch at its own cap) blocks nobody else;
* a grant is settled exactly once; one never written gives permit and tokens back, one written keeps its tokens until
  the upstream has forgotten it.

Pure: time is an argument, nothing here waits. `admission/shell.py` is the asyncio shell.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Sequence
from enum import IntEnum
from heapq import heappop, heappush
from itertools import count
from math import inf

from paceline.admission.allowance import Allowance
from paceline.admission.pause import ThrottlePause
from paceline.admission.queue import Flow, Share
from paceline.model import Cost, Priority, Rate, Receipt, Verdict, WaitReason
from paceline.rate.round_trip import RoundTripFloor
from paceline.rate.window import Hold, Window

_WEIGHTS = {Priority.INTERACTIVE: 100.0, Priority.NORMAL: 10.0, Priority.BULK: 1.0}
_LATEST_S = 0.1
"""A timer later than this is a stall of ours: its capacity is lost rather than written as one burst."""
_CALM_S = 3600.0


class Lane(IntEnum):
    """Who is bound by what was learned."""

    CLASSIC = 0
    ADAPTIVE = 1


class Waits:
    """Seconds a lane's head was held back so far, by reason; an item's waits are differences of two of these."""

    __slots__ = ("concurrency_s", "pause_s", "rate_s")

    def __init__(self, rate_s: float = 0.0, concurrency_s: float = 0.0, pause_s: float = 0.0) -> None:
        self.rate_s, self.concurrency_s, self.pause_s = rate_s, concurrency_s, pause_s

    def add(self, reason: WaitReason, duration_s: float) -> None:
        if reason is WaitReason.RATE:
            self.rate_s += duration_s
        elif reason is WaitReason.CONCURRENCY:
            self.concurrency_s += duration_s
        else:
            self.pause_s += duration_s


class BatchFlow(Flow):
    """A batch at this gate: its lane, its own allowance, and how its waits differ from its lane's."""

    __slots__ = (
        "lane",
        "own",
        "own_due",
        "parked_at",
        "parked_base",
        "parked_reason",
        "shift",
        "unparked_at",
    )

    def __init__(self, parent: Share, lane: Lane, own: Allowance | None) -> None:
        super().__init__(parent)
        self.lane = lane
        self.own = own
        self.own_due = -inf
        """When its own rate would have let its head go, for the look that unparked it."""
        self.unparked_at = -inf
        self.parked_at: float | None = None
        self.parked_reason = WaitReason.CONCURRENCY
        self.parked_base = (0.0, 0.0, 0.0)
        self.shift = Waits()


class Waiter:
    """One attempt that wants to go; once granted it is the grant."""

    __slots__ = (
        "arrived", "cost", "flow", "future", "granted_at", "holds", "own_hold", "receipt", "settled", "written_at",
    )  # fmt: skip

    def __init__(self, flow: BatchFlow, cost: Cost, receipt: Receipt) -> None:
        self.flow = flow
        self.cost = cost
        self.receipt = receipt
        self.future: Future[None] | None = None
        """The shell's, while it waits."""
        self.granted_at: float | None = None
        self.written_at: float | None = None
        self.settled = False
        self.holds: list[tuple[Window, Hold]] = []
        self.own_hold: Hold | None = None
        self.arrived = (0.0, 0.0, 0.0)


class Gate:
    """Admission to one upstream."""

    def __init__(
        self,
        rates: Sequence[Rate],
        *,
        limit: float,
        adaptive_limit: float,
        transit_s: float,
        max_pause_s: float,
        sockets: Allowance,
        wake: Callable[[], None],
    ) -> None:
        self.windows = [Window(rate) for rate in rates]
        self.limit = limit
        self.adaptive_limit = adaptive_limit
        self.in_flight = 0
        self.queued = 0
        self.paused = False
        self.pause = ThrottlePause(max_pause_s)
        self._declared_transit_s = self.transit_s = transit_s
        self._throttled_at = -inf
        self._floor = RoundTripFloor()
        self._sockets = sockets
        self._wake = wake
        self._root = Share(None)
        self._classes = {
            (lane, priority): Share(self._root, weight) for lane in Lane for priority, weight in _WEIGHTS.items()
        }
        self._tenants: dict[tuple[Lane, Priority, str], Share] = {}
        self._granted: set[Waiter] = set()
        self._flows: set[BatchFlow] = set()
        self._parked: list[tuple[float, int, BatchFlow]] = []
        self._park_sequence = count()
        self._waits = (Waits(), Waits())
        self._reasons: list[WaitReason | None] = [None, None]
        self._since = 0.0
        self._rate_due: float | None = None
        """When the rate alone would have let the head go, where the rate alone held it."""

    def open(self, lane: Lane, priority: Priority, tenant: str, own: Allowance | None) -> BatchFlow:
        """A place in the queue for one batch."""
        key = (lane, priority, tenant)
        share = self._tenants.get(key)
        if share is None:
            share = self._tenants[key] = Share(self._classes[lane, priority])
        return BatchFlow(share, lane, own)

    def refusal(self, cost: Cost, own: Allowance | None) -> str | None:
        """Why a cost can never be paid, or None."""
        rates = [window.rate for window in self.windows]
        if own is not None and own.rate is not None:
            rates.append(own.rate)
        for rate in rates:
            if cost.get(rate.unit, 0.0) > rate.limit:
                return (
                    f"cost {cost[rate.unit]:g} {rate.unit} is above the window's limit of {rate.limit:g} "
                    f"per {rate.per_s:g} s: it can never be paid; split the request or raise the limit"
                )
        return None

    def offer(self, waiter: Waiter, now: float) -> bool:
        """Join the queue. False: somebody of the same batch waits already, so nothing can have changed."""
        flow = waiter.flow
        self._accrue(now)
        if flow.parked_at is not None:
            self._charge_parked(flow, now)
        waits, shift = self._waits[flow.lane], flow.shift
        waiter.arrived = (
            waits.rate_s + shift.rate_s,
            waits.concurrency_s + shift.concurrency_s,
            waits.pause_s + shift.pause_s,
        )
        self.queued += 1
        first = not flow.waiters
        flow.waiters[waiter] = None
        if first:
            self._flows.add(flow)
            flow.enter()
        return first

    def withdraw(self, waiter: Waiter, now: float) -> None:
        """Leave the queue ungranted; what it waited is on its receipt."""
        self._accrue(now)
        if waiter.flow.parked_at is not None:
            self._charge_parked(waiter.flow, now)
        self._dequeue(waiter)
        if not self.queued:
            self._rate_due = None

    def _dequeue(self, waiter: Waiter) -> None:
        flow, arrived, receipt = waiter.flow, waiter.arrived, waiter.receipt
        waits, shift = self._waits[flow.lane], flow.shift
        receipt.rate_wait_s += waits.rate_s + shift.rate_s - arrived[0]
        receipt.queue_s += waits.concurrency_s + shift.concurrency_s - arrived[1]
        receipt.pause_s += waits.pause_s + shift.pause_s - arrived[2]
        del flow.waiters[waiter]
        self.queued -= 1
        if not flow.waiters:
            self._empty(flow)

    def look(self, now: float) -> tuple[list[Waiter], float]:
        """Grant all that may go now. Returns them, and when to look again (`inf`: when something happens)."""
        self._accrue(now)
        moment, held = now, False
        if self._rate_due is not None and now >= self._rate_due:
            moment, held = max(self._rate_due, now - _LATEST_S), True
        self._rate_due = None
        parked = self._parked
        while parked and parked[0][0] <= now:
            self._unpark(heappop(parked)[2], now)
        granted: list[Waiter] = []
        again = parked[0][0] if parked else inf
        reasons: list[WaitReason | None] = [None, None]
        while self._root.live:
            flow, until = self._next_flow(now, reasons)
            if flow is None:
                again = min(again, until)
                break
            waiter = flow.head()
            own = flow.own
            if own is not None:
                own_due = own.due(waiter.cost, now)
                if not own.free or own_due > now:
                    self._park(flow, own_due, now)
                    again = min(again, parked[0][0] if parked else inf)
                    continue
            due = self._rates_due(waiter.cost, now)
            if due > now:
                self._rate_due = due
                again = min(again, due)
                reasons = [reason or WaitReason.RATE for reason in reasons]
                break
            self._grant(waiter, moment, held, now)
            granted.append(waiter)
        self._reasons = reasons
        return granted, again

    def _next_flow(self, now: float, reasons: list[WaitReason | None]) -> tuple[BatchFlow | None, float]:
        """The flow to serve next, or None and until when nobody may go. Notes why a lane may not."""
        if self.paused:
            reasons[:] = [WaitReason.PAUSE, WaitReason.PAUSE]
            return None, inf
        if self.in_flight >= self.limit or not self._sockets.free:
            if self.in_flight < self.limit:
                self._sockets.block(self, self._wake)
            reasons[:] = [WaitReason.CONCURRENCY, WaitReason.CONCURRENCY]
            return None, inf
        until = inf
        open_lanes = [True, self.in_flight < self.adaptive_limit]
        if not open_lanes[Lane.ADAPTIVE]:
            reasons[Lane.ADAPTIVE] = WaitReason.CONCURRENCY
        blocked_until = self.pause.blocked_until(now)
        if blocked_until > now:
            open_lanes[Lane.ADAPTIVE] = False
            reasons[Lane.ADAPTIVE] = WaitReason.PAUSE
            until = blocked_until
        best: BatchFlow | None = None
        best_class: Share | None = None
        for (lane, priority), share in self._classes.items():
            if not share.live or not open_lanes[lane]:
                continue
            if priority is Priority.BULK and self.in_flight >= self._bulk_limit(lane):
                reasons[lane] = reasons[lane] or WaitReason.CONCURRENCY
                continue
            flow = share.first().first()
            assert isinstance(flow, BatchFlow)
            if (
                best_class is None
                or self._throttled(best)
                or (share.start < best_class.start and not self._throttled(flow))
            ):
                best, best_class = flow, share
        return best, until

    def _throttled(self, flow: BatchFlow | None) -> bool:
        """Its head is the item whose throttle paused the budget: somebody else had better be the probe."""
        receipt = self.pause.throttled
        return receipt is not None and flow is not None and flow.head().receipt is receipt

    def _bulk_limit(self, lane: Lane) -> float:
        """Bulk leaves one permit in ten to the others, at least one where there is more than one."""
        limit = min(self.limit, self.adaptive_limit) if lane is Lane.ADAPTIVE else self.limit
        return limit if limit <= 1 or limit == inf else limit - max(1, limit // 10)

    def _rates_due(self, cost: Cost, now: float) -> float:
        due = -inf
        for window in self.windows:
            amount = cost.get(window.rate.unit)
            if amount:
                due = max(due, window.due(amount, now, self.transit_s))
        return due

    def _grant(self, waiter: Waiter, moment: float, held: bool, now: float) -> None:
        flow = waiter.flow
        for window in self.windows:
            amount = waiter.cost.get(window.rate.unit)
            if amount:
                waiter.holds.append((window, window.take(amount, moment, held=held)))
        if flow.own is not None:
            own_moment = max(flow.own_due, now - _LATEST_S) if flow.unparked_at == now else now
            waiter.own_hold = flow.own.take(waiter.cost, own_moment)
        self._sockets.take(waiter.cost, now)
        self.in_flight += 1
        self._granted.add(waiter)
        waiter.granted_at = now
        if flow.lane is Lane.ADAPTIVE and self.pause.throttled is not None:
            self.pause.probe_sent(now)
        flow.charge(waiter.cost["requests"])
        self._dequeue(waiter)

    def written(self, waiter: Waiter, now: float) -> None:
        """Its head went to the socket."""
        waiter.written_at = now
        for window, hold in waiter.holds:
            window.written(hold, now)
        if waiter.own_hold is not None and waiter.flow.own is not None:
            waiter.flow.own.written(waiter.own_hold, now)

    def settle(
        self,
        waiter: Waiter,
        verdict: Verdict,
        now: float,
        *,
        answered_at: float | None = None,
        reused: bool = False,
        retry_after_s: float | None = None,
    ) -> float | None:
        """Give the permit back, once. Returns how long the budget pauses for it, where it does."""
        assert not waiter.settled, "a grant is settled exactly once"
        waiter.settled = True
        self._granted.discard(waiter)
        self.in_flight -= 1
        written_at = waiter.written_at
        if written_at is not None and answered_at is not None and reused:
            self._floor.add(answered_at - written_at, answered_at)
        for window, hold in waiter.holds:
            if written_at is None:
                window.give_back(hold)
            elif answered_at is not None:
                window.answered(hold, answered_at, self._floor.floor_s, self.transit_s)
        pause_s = self._feed(waiter, verdict, now, retry_after_s)
        own = waiter.flow.own
        if own is not None:
            own.settle(waiter.own_hold, answered_at)
            own.wake()
        self._sockets.settle(None, answered_at)
        self._sockets.wake()
        return pause_s

    def _feed(self, waiter: Waiter, verdict: Verdict, now: float, retry_after_s: float | None) -> float | None:
        written_at = waiter.written_at
        if verdict is Verdict.SUCCESS and written_at is not None:
            self.pause.succeeded(written_at)
            if now - self._throttled_at > _CALM_S:
                self.transit_s = self._declared_transit_s
        elif verdict is Verdict.THROTTLED and written_at is not None:
            if self.windows and written_at > self._throttled_at:
                # We kept within the limit and were refused: a request takes longer to be counted than was thought.
                self.transit_s = min(2 * self.transit_s, max(window.rate.per_s for window in self.windows))
                self._throttled_at = now
            return self.pause.throttle(waiter.receipt, written_at, retry_after_s, now)
        elif waiter.granted_at is not None:
            self.pause.unanswered(waiter.granted_at)
        return None

    def retune(self, rates: Sequence[Rate], now: float) -> list[Waiter]:
        """Change the windows and keep what was counted. Returns the waiters that can never be paid now, withdrawn."""
        before = {(window.rate.per_s, window.rate.unit): window for window in self.windows}
        self.windows = []
        for rate in rates:
            window = before.pop((rate.per_s, rate.unit), None)
            if window is not None:
                window.retune(rate, now)
            else:
                window = self._new_window(rate, list(before.values()))
            self.windows.append(window)
        self._rate_due = None
        unpayable = [
            waiter for flow in self._flows for waiter in flow.waiters if self.refusal(waiter.cost, None) is not None
        ]
        for waiter in unpayable:
            self.withdraw(waiter, now)
        return unpayable

    def _new_window(self, rate: Rate, known: list[Window]) -> Window:
        window = Window(rate)
        same = [other for other in (*known, *self.windows) if other.rate.unit == rate.unit]
        if same:
            window.seed(max(same, key=lambda other: other.rate.per_s))
        for waiter in self._granted:
            amount = waiter.cost.get(rate.unit)
            if amount:
                hold = window.take(amount, -inf)
                waiter.holds.append((window, hold))
                if waiter.written_at is not None:
                    window.written(hold, waiter.written_at)
        return window

    def set_declared(self, transit_s: float, max_pause_s: float) -> None:
        """Change what the operator declared beside the windows; what was learned stays."""
        self.transit_s = max(transit_s, self.transit_s if self.transit_s != self._declared_transit_s else 0.0)
        self._declared_transit_s = transit_s
        self.pause.max_pause_s = max_pause_s

    def forget_learned(self) -> None:
        """Back to the configuration: pauses, transit and round trip as on the first day. Counted sends stay counted."""
        self.pause.clear()
        self.transit_s = self._declared_transit_s
        self._throttled_at = -inf
        self._floor = RoundTripFloor()

    def idle(self, now: float) -> bool:
        """Nothing would be forgotten by dropping this gate."""
        return (
            not self.in_flight
            and not self.queued
            and not self.paused
            and self.pause.until <= now
            and all(window.remaining(now, self.transit_s) >= window.rate.limit for window in self.windows)
        )

    def _park(self, flow: BatchFlow, own_due: float, now: float) -> None:
        """Take a batch that its own allowance holds back out of the running."""
        assert flow.own is not None
        flow.leave()
        flow.parked_at = now
        waits = self._waits[flow.lane]
        flow.parked_base = (waits.rate_s, waits.concurrency_s, waits.pause_s)
        flow.parked_reason = WaitReason.RATE if flow.own.free else WaitReason.CONCURRENCY
        flow.own_due = own_due
        if flow.own.free and own_due < inf:
            heappush(self._parked, (own_due, next(self._park_sequence), flow))
        else:
            flow.own.block((self, flow), lambda: self._room(flow))

    def _room(self, flow: BatchFlow) -> None:
        flow.own_due = inf
        heappush(self._parked, (-inf, next(self._park_sequence), flow))
        self._wake()

    def _unpark(self, flow: BatchFlow, now: float) -> None:
        if flow.parked_at is None:
            return
        self._charge_parked(flow, now)
        flow.parked_at = None
        flow.unparked_at = now
        flow.own_due = min(flow.own_due, now)
        flow.enter()

    def _charge_parked(self, flow: BatchFlow, now: float) -> None:
        """What the lane waited for meanwhile was not what this batch waited for."""
        assert flow.parked_at is not None
        waits, base, shift = self._waits[flow.lane], flow.parked_base, flow.shift
        shift.rate_s -= waits.rate_s - base[0]
        shift.concurrency_s -= waits.concurrency_s - base[1]
        shift.pause_s -= waits.pause_s - base[2]
        shift.add(flow.parked_reason, now - flow.parked_at)
        flow.parked_at = now
        flow.parked_base = (waits.rate_s, waits.concurrency_s, waits.pause_s)

    def _empty(self, flow: BatchFlow) -> None:
        flow.leave()
        self._flows.discard(flow)
        if flow.parked_at is not None:
            flow.parked_at = None
            assert flow.own is not None
            flow.own.forget((self, flow))

    def _accrue(self, now: float) -> None:
        """Add the time since the last look to each lane's reason."""
        if now > self._since:
            for lane in Lane:
                reason = self._reasons[lane]
                if reason is not None:
                    self._waits[lane].add(reason, now - self._since)
            self._since = now
