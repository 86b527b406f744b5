"""The gate of one upstream: who may send now, and if nobody, when to look again.

Rules:

* a waiter is granted when, at one moment, nothing is paused, a permit is free and every rate window of its budget has
  its tokens; permit and tokens are then taken together, so nobody holds the one while waiting for the other;
* what the operator declared binds everybody; what was learned (throttle pauses, the adaptive limit) binds the adaptive
  lane only, but is fed by everybody;
* free permits go to the classes 100 : 10 : 1 across budgets, and in turn to the budgets of a class; within a budget the
  queue decides; a budget that cannot pay waits by itself and costs another nothing;
* the head of a lineup is never skipped for a cheaper waiter behind it; a class or batch that may not go now (bulk
  without a spare permit, a batch at its own cap) blocks nobody else;
* a grant is settled exactly once; one never written gives permit and tokens back, one written keeps its tokens until
  the upstream has forgotten it.

Pure: time is an argument, nothing here waits; `shell.py` is the asyncio shell. Of its parts `budgets.py` has the
windows, `standing.py` knows which lineup is ready, `turns.py` whose turn a permit is, `refusals.py` who need not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import copy
from math import inf

from paceline.admission.allowance import Allowance
from paceline.admission.budgets import WHOLE, Budgets
from paceline.admission.copies import Copies
from paceline.admission.health import Health, past_hope
from paceline.admission.lineup import BatchFlow, Lane, Lineup, State, Waiter
from paceline.admission.standing import Standing
from paceline.model import Priority, Rate, Verdict, WaitReason
from paceline.rate.rate_info import RateInfo

_HELD = State.HELD
_BULK = Priority.BULK
_RATE, _CONCURRENCY, _PAUSE = WaitReason.RATE, WaitReason.CONCURRENCY, WaitReason.PAUSE

_LATEST_S = 0.1
"""A timer later than this is a stall of ours: its capacity is lost rather than written as one burst."""


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
        health: Health | None = None,
    ) -> None:
        self.limit = limit
        self.adaptive_limit = adaptive_limit
        self.health = health
        self.tripped = False
        """The last settlement opened the breaker, or was a trial that left it open: who waits may have to be told."""
        self.quickest_s = 0.0
        """As its health told, for a copy that goes without."""
        self.past_hope: list[Waiter] = []
        """Withdrawn by the last look, as their time was too short to be served; the shell tells them."""
        self.in_flight = 0
        self._bulk_in_flight = 0
        self.queued = 0
        self.paused = False
        self._sockets = sockets
        self._wake = wake
        self.budgets = Budgets(rates, transit_s, max_pause_s)
        self._standing = Standing(wake)
        self._blocked_at = -inf
        """When a ready lineup last had to wait for something else than its rate."""

    def open(
        self,
        lane: Lane,
        priority: Priority,
        tenant: str,
        own: Allowance | None,
        *,
        weight: float = 1.0,
        key: str = WHOLE,
    ) -> BatchFlow:
        """A place in the queue for one batch; good until its budget is `dropped`.

        Raises:
            LookupError: see `Budgets.of`.
        """
        return self.budgets.of(key, self._standing.now).lineups[lane].open(priority, tenant, weight, own)

    def offer(self, waiter: Waiter, now: float) -> bool:
        """Join the queue. False: somebody of the same batch waits already, so nothing can have changed."""
        flow = waiter.flow
        lineup = flow.lineup
        self._standing.fold(flow, now)
        waiter.arrived = flow.waited()
        waiter.offered_at = min(waiter.offered_at, now)
        self.queued += 1
        first = not flow.waiters
        flow.join(waiter)
        if first:
            lineup.flows.add(flow)
            flow.enter()
            if lineup.state is not _HELD or lineup.reason is _RATE:
                # A head of another cost may be payable sooner.
                self._standing.place(lineup, now)
        return first

    def withdraw(self, waiter: Waiter, now: float) -> None:
        """Leave the queue ungranted; what it waited is on its receipt."""
        self._standing.fold(waiter.flow, now)
        self._dequeue(waiter)
        self._standing.place(waiter.flow.lineup, now)

    def look(self, now: float) -> tuple[list[Waiter], float]:
        """Grant all that may go now. Returns them, and when to look again (`inf`: when something happens)."""
        standing = self._standing
        standing.accrue(now)
        classic, adaptive = standing.turns.of
        if adaptive.reason is not None or classic.reason is not None:
            self._blocked_at = now
        standing.release(now)
        granted: list[Waiter] = []
        while (chosen := self._next_lineup(now)) is not None:
            lineup, bulk = chosen
            head = lineup.head_flow(bulk)
            assert head is not None
            waiter = head.head()
            own = head.own
            if own is not None:
                own_due = own.due(waiter.cost, now)
                if not own.free or own_due > now:
                    standing.park(head, own_due, now)
                    continue
            due, reason = lineup.budget.due(waiter, now)
            if due > now:
                standing.hold(lineup, due, reason, now)
                continue
            if self.health.past_hope(waiter, now) if self.health else past_hope(waiter, self.quickest_s, now):
                self.withdraw(waiter, now)
                self.past_hope.append(waiter)
                continue
            self._grant(waiter, lineup, now)
            granted.append(waiter)
        until, release_at = self._note_reasons(now), standing.next_release()
        return granted, until if until < release_at else release_at

    def put_off(self) -> None:
        """Somebody came and there is no look yet, as what is left is scarce: they wait for the rate."""
        adaptive = self._standing.turns.adaptive
        if adaptive.reason is None:
            adaptive.reason = _RATE

    def written(self, waiter: Waiter, now: float) -> bool:
        """Its head went to the socket. True: somebody waited for just that, so it is time to look."""
        waiter.written_at = now
        flow = waiter.flow
        flow.lineup.budget.written(waiter, now)
        if waiter.own_hold is not None and flow.own is not None:
            flow.own.written(waiter.own_hold, now)
        placed = False
        for lineup in flow.lineup.budget.lineups:
            if lineup.state is _HELD and lineup.until == inf:
                self._standing.accrue(now)
                self._standing.place(lineup, now)
                placed = True
        return placed

    def settle(
        self,
        waiter: Waiter,
        verdict: Verdict,
        now: float,
        *,
        answered_at: float | None = None,
        reused: bool = False,
        retry_after_s: float | None = None,
        told: RateInfo | None = None,
        healthy: bool | None = None,
        timed_out: bool = False,
    ) -> float | None:
        """Give the permit back, once. Returns how long the budget pauses for it, where it does.

        `healthy` is what the attempt says of the upstream's health, None for nothing.
        """
        assert not waiter.settled, "a grant is settled exactly once"
        waiter.settled = True
        self._standing.accrue(now)
        self.in_flight -= 1
        if waiter.flow.priority is _BULK:
            self._bulk_in_flight -= 1
        budget = waiter.flow.lineup.budget
        steady = budget.steady
        if told is not None:
            budget.hear(waiter, told, now)
        back_at = budget.settle(waiter, answered_at, reused)
        pause_s = budget.feed(waiter, verdict, now, retry_after_s)
        for lineup in budget.lineups:
            if lineup.state is _HELD and (
                back_at <= lineup.until or lineup.root.live > 1 or not steady or not budget.steady
            ):
                self._standing.place(lineup, now)
        if self.health is not None:
            self.tripped = self.health.settled(waiter, healthy, timed_out, answered_at, now)
            self.adaptive_limit = self.health.limit
        own = waiter.flow.own
        if own is not None:
            own.settle(waiter.own_hold, answered_at)
            own.wake()
        self._sockets.settle(None, answered_at)
        self._sockets.wake()
        return pause_s

    def retune(self, rates: Sequence[Rate], now: float) -> list[Waiter]:
        """Change the windows and keep what was counted. Returns the waiters that can never be paid now, withdrawn."""
        self.budgets.retune(rates, now)
        unpayable = [each for each in self.budgets.waiters() if self.budgets.refusal(each.cost, None) is not None]
        for waiter in unpayable:
            self.withdraw(waiter, now)
        self.reconsider(now)
        return unpayable

    def set_health(self, fresh: Health, now: float) -> None:
        """Take new settings for breaker and limit; what was learned stays as far as they allow."""
        known = self.health
        if known is None:
            self.health = fresh
        else:
            known.retune(fresh, now)
        self.adaptive_limit = fresh.limit if known is None else known.limit

    def forget_learned(self, now: float) -> None:
        """Back to the configuration. Counted sends stay counted."""
        self.budgets.forget_learned()
        if self.health is not None:
            self.health.reset()
            self.adaptive_limit = self.health.limit
        self.reconsider(now)

    def reconsider(self, now: float) -> None:
        """What held the lineups may not hold any more."""
        self._standing.accrue(now)
        for budget in self.budgets:
            for lineup in budget.lineups:
                lineup.rate_due = None
                self._standing.place(lineup, now)

    @property
    def ready(self) -> bool:
        """Somebody waits whom no budget is known to hold: it may be worth a look."""
        return self._standing.turns.any

    def idle(self, now: float, longest_s: float = inf) -> bool:
        """Nobody waits or is in flight, nothing is paused, and every window (of at most `longest_s`) is free.

        With every window, nothing would be forgotten by dropping this gate.
        """
        return not self.paused and self.budgets.idle(now, longest_s)

    def fork(self, copies: Copies, keys: Collection[str], wake: Callable[[], None]) -> Gate:
        """A copy to be run ahead of time by itself, with the budgets of `keys` and those where anybody waits or flies.

        Its batches have their places but none of their waiters yet: `copies.flows` says whose these are.
        """
        fork = copy(self)
        if self.health is not None:
            health, fork.quickest_s = self.health.fork(), self.health.quickest_s
            fork.past_hope = []
            fork.health = health if isinstance(health, Health) else None
            fork.adaptive_limit = health.limit if isinstance(health, Health) else health
        fork._wake, fork._sockets = wake, self._sockets.fork(copies)
        fork.budgets = self.budgets.fork(copies, keys)
        fork._standing = self._standing.fork(copies, fork.budgets, wake)
        return fork

    def _next_lineup(self, now: float) -> tuple[Lineup, bool] | None:
        """The lineup whose turn it is, and whether bulk may go; None when nobody may."""
        turns = self._standing.turns
        if not (turns.adaptive.count or turns.classic.count) or self.paused or self.in_flight >= self.limit:
            return None
        if not self._sockets.free:
            self._sockets.block(self, self._wake)
            return None
        adaptive_limit = self.limit if self.limit < self.adaptive_limit else self.adaptive_limit
        if self.health is not None and turns.adaptive.count and self.health.closed_until(now) > now:
            adaptive_limit = 0.0
        return turns.next(self.in_flight, self._bulk_in_flight, self.limit, adaptive_limit)

    def _note_reasons(self, now: float) -> float:
        """Note why each lane's ready lineups were not served. Until when, where it is for the breaker."""
        classic, adaptive = self._standing.turns.of
        reason = _PAUSE if self.paused else _CONCURRENCY
        classic.reason = reason if classic.count else None
        adaptive.reason = reason if adaptive.count else None
        if self.health is None or not adaptive.count or self.paused:
            return inf
        until = self.health.closed_until(now)
        if until <= now:
            return inf
        adaptive.reason = _PAUSE
        return until

    def _grant(self, waiter: Waiter, lineup: Lineup, now: float) -> None:
        flow = waiter.flow
        moment, held = now, False
        if lineup.rate_due is not None and self._blocked_at <= lineup.rate_due <= now:
            moment, held = max(lineup.rate_due, now - _LATEST_S), True
        lineup.budget.take(waiter, moment, held, now)
        if flow.own is not None:
            own_moment = max(flow.own_due, now - _LATEST_S) if flow.unparked_at == now else now
            waiter.own_hold = flow.own.take(waiter.cost, own_moment)
        self._sockets.take(waiter.cost, now)
        self.in_flight += 1
        if flow.priority is _BULK:
            self._bulk_in_flight += 1
        if self.health is not None:
            self.health.granted(waiter, self.in_flight, now)
        waiter.granted_at = now
        turns = self._standing.turns
        lane = turns.of[lineup.lane]
        lineup.fold(now, lane.waits)
        cost = waiter.cost["requests"]
        flow.charge(cost)
        turns.virtual = lane.served(lineup, flow.priority, cost, turns.virtual)
        self._dequeue(waiter)
        self._standing.place(lineup, now)

    def _dequeue(self, waiter: Waiter) -> None:
        flow, arrived, receipt = waiter.flow, waiter.arrived, waiter.receipt
        rate_s, concurrency_s, pause_s = flow.waited()
        receipt.rate_wait_s += rate_s - arrived[0]
        receipt.queue_s += concurrency_s - arrived[1]
        receipt.pause_s += pause_s - arrived[2]
        flow.part(waiter)
        self.queued -= 1
        if not flow.waiters:
            flow.lineup.flows.discard(flow)
            flow.leave()
            self._standing.forget(flow)
