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

Pure: time is an argument, nothing here waits. `admission/shell.py` is the asyncio shell.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf

from paceline.admission.allowance import Allowance
from paceline.admission.budget import Budget
from paceline.admission.copies import Copies
from paceline.admission.health import Health
from paceline.admission.lineup import BatchFlow, Lane, Lineup, State, Waiter
from paceline.admission.turns import Turns
from paceline.model import Cost, Priority, Rate, Verdict, WaitReason
from paceline.rate.rate_info import RateInfo

_READY, _HELD, _IDLE = State.READY, State.HELD, State.IDLE
_CLASSIC, _ADAPTIVE = Lane.CLASSIC, Lane.ADAPTIVE
_RATE, _CONCURRENCY, _PAUSE = WaitReason.RATE, WaitReason.CONCURRENCY, WaitReason.PAUSE

WHOLE = "upstream"
"""The partition key where nothing is partitioned."""

_MOST_BUDGETS = 10_000
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
        """The breaker is open since the last settlement or stayed so: who waits may have to be told."""
        self.past_hope: list[Waiter] = []
        """Withdrawn by the last look, as their time was too short to be served; the shell tells them."""
        self.in_flight = 0
        self.queued = 0
        self.paused = False
        self._rates = tuple(rates)
        self._transit_s, self._max_pause_s = transit_s, max_pause_s
        self._sockets = sockets
        self._wake = wake
        self._budgets: OrderedDict[str, Budget] = OrderedDict()
        self._turns = (Turns(), Turns())
        self._virtual = 0.0
        self._held: list[tuple[float, int, Lineup]] = []
        self._parked: list[tuple[float, int, BatchFlow]] = []
        self._sequence = count(1)
        self._since = 0.0
        self._blocked_at = -inf
        """When a ready lineup last had to wait for something else than its rate."""

    @property
    def budgets(self) -> list[Budget]:
        """Those known now; an upstream that is not partitioned has one."""
        return list(self._budgets.values()) or [self.budget(WHOLE)]

    def budget(self, key: str) -> Budget:
        """The budget of a partition key, made when first asked for.

        Raises:
            LookupError: so many are known and busy that none can be dropped.
        """
        budget = self._budgets.get(key)
        if budget is None:
            if len(self._budgets) >= _MOST_BUDGETS:
                self._drop_one()
            budget = self._budgets[key] = Budget(key, self._rates, self._transit_s, self._max_pause_s)
        elif len(self._budgets) > 1:
            self._budgets.move_to_end(key)
        return budget

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
            LookupError: see `budget`.
        """
        return self.budget(key).lineups[lane].open(priority, tenant, weight, own)

    def refusal(self, cost: Cost, own: Allowance | None) -> str | None:
        """Why a cost can never be paid, or None."""
        rates = self._rates if own is None or own.rate is None else (*self._rates, own.rate)
        for rate in rates:
            if cost.get(rate.unit, 0.0) > rate.limit:
                return (
                    f"cost {cost[rate.unit]:g} {rate.unit} is above the window's limit of {rate.limit:g} "
                    f"per {rate.per_s:g} s: it can never be paid; split the request or raise the limit"
                )
        return None

    def out_of_reach(self, waiter: Waiter, now: float) -> float | None:
        """Seconds that a newcomer would have to wait at least, where that is past its deadline."""
        flow = waiter.flow
        soonest = flow.lineup.budget.soonest(flow, flow.backlog, waiter.cost, now)
        return soonest - now if soonest > waiter.deadline else None

    def give_up(self, now: float) -> list[tuple[Waiter, float]]:
        """After a pause or a retune: withdraw who cannot be served in time any more; with the wait each would need."""
        given_up: list[tuple[Waiter, float]] = []
        for budget in self._budgets.values():
            for lineup in budget.lineups:
                for flow in list(lineup.flows):
                    ahead = dict(flow.backlog)
                    for waiter in reversed(flow.waiters):  # from the last: who is behind waits longest
                        for unit, amount in waiter.amounts:
                            ahead[unit] -= amount
                        soonest = budget.soonest(flow, ahead, waiter.cost, now)
                        if soonest <= waiter.deadline:
                            break
                        given_up.append((waiter, soonest - now))
        for waiter, _ in given_up:
            self.withdraw(waiter, now)
        return given_up

    def turned_away(self, waiter: Waiter, now: float) -> float | None:
        """Seconds until the breaker's next trial, for a newcomer that cannot or will not wait for it."""
        return None if self.health is None else self.health.turned_away(waiter, now)

    def turn_away(self, now: float) -> list[tuple[Waiter, float]]:
        """The breaker is open: withdraw who cannot or will not wait for its next trial; with the wait for it."""
        away = [
            (waiter, seconds) for waiter in self.waiters() if (seconds := self.turned_away(waiter, now)) is not None
        ]
        for waiter, _ in away:
            self.withdraw(waiter, now)
        return away

    def offer(self, waiter: Waiter, now: float) -> bool:
        """Join the queue. False: somebody of the same batch waits already, so nothing can have changed."""
        flow = waiter.flow
        lineup = flow.lineup
        self._accrue(now)
        lineup.fold(now, self._turns[lineup.lane].waits)
        flow.fold(now)
        waiter.arrived = flow.waited()
        self.queued += 1
        first = not flow.waiters
        flow.join(waiter)
        if first:
            lineup.flows.add(flow)
            flow.enter()
            if lineup.state is not _HELD or lineup.reason is _RATE:
                # A head of another cost may be payable sooner.
                self._place(lineup, now)
        return first

    def withdraw(self, waiter: Waiter, now: float) -> None:
        """Leave the queue ungranted; what it waited is on its receipt."""
        self._accrue(now)
        lineup = waiter.flow.lineup
        lineup.fold(now, self._turns[lineup.lane].waits)
        waiter.flow.fold(now)
        self._dequeue(waiter)
        self._place(lineup, now)

    def look(self, now: float) -> tuple[list[Waiter], float]:
        """Grant all that may go now. Returns them, and when to look again (`inf`: when something happens)."""
        self._accrue(now)
        classic, adaptive = self._turns
        if classic.reason is not None or adaptive.reason is not None:
            self._blocked_at = now
        parked, held = self._parked, self._held
        while parked and parked[0][0] <= now:
            flow = heappop(parked)[2]
            if flow.parked_at is not None:
                flow.lineup.fold(now, self._turns[flow.lineup.lane].waits)
                flow.unpark(now)
                self._place(flow.lineup, now)
        while held and held[0][0] <= now:
            _, number, lineup = heappop(held)
            if number == lineup.hold_number:
                self._place(lineup, now)
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
                    self._park(head, own_due, now)
                    continue
            due, reason = lineup.budget.due(waiter, now)
            if due > now:
                self._hold(lineup, due, reason, now)
                continue
            if self.health is not None and self.health.past_hope(waiter, now):
                self.withdraw(waiter, now)
                self.past_hope.append(waiter)
                continue
            self._grant(waiter, lineup, now)
            granted.append(waiter)
        until = self._note_reasons(now)
        while held and held[0][1] != held[0][2].hold_number:
            heappop(held)
        if held and held[0][0] < until:
            until = held[0][0]
        if parked and parked[0][0] < until:
            until = parked[0][0]
        return granted, until

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
                self._accrue(now)
                self._place(lineup, now)
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
        self._accrue(now)
        self.in_flight -= 1
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
                self._place(lineup, now)
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
        self._rates = tuple(rates)
        for budget in self._budgets.values():
            budget.retune(rates, now)
        unpayable = [waiter for waiter in self.waiters() if self.refusal(waiter.cost, None) is not None]
        for waiter in unpayable:
            self.withdraw(waiter, now)
        self.reconsider(now)
        return unpayable

    def set_declared(self, transit_s: float, max_pause_s: float) -> None:
        """Change what the operator declared beside the windows; what was learned stays."""
        self._transit_s, self._max_pause_s = transit_s, max_pause_s
        for budget in self._budgets.values():
            budget.set_declared(transit_s, max_pause_s)

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
        for budget in self._budgets.values():
            budget.forget_learned()
        if self.health is not None:
            self.health.reset()
            self.adaptive_limit = self.health.limit
        self.reconsider(now)

    def reconsider(self, now: float) -> None:
        """What held the lineups may not hold any more."""
        self._accrue(now)
        for budget in self._budgets.values():
            for lineup in budget.lineups:
                lineup.rate_due = None
                self._place(lineup, now)

    def waiters(self) -> Iterator[Waiter]:
        """Everybody who waits, parked or not."""
        for budget in self._budgets.values():
            for lineup in budget.lineups:
                for flow in lineup.flows:
                    yield from flow.waiters

    @property
    def rates(self) -> tuple[Rate, ...]:
        """The windows as declared or last retuned."""
        return self._rates

    @property
    def paused_until(self) -> float:
        """When the last throttle pause ends; in the past where none stands."""
        return max((budget.pause.until for budget in self._budgets.values()), default=-inf)

    @property
    def transit_s(self) -> float:
        """The longest a request is taken to need to be counted."""
        return max((budget.transit_s for budget in self._budgets.values()), default=self._transit_s)

    @property
    def ready(self) -> bool:
        """Somebody waits whom no budget is known to hold: it may be worth a look."""
        classic, adaptive = self._turns
        return classic.count > 0 or adaptive.count > 0

    def idle(self, now: float, longest_s: float = inf) -> bool:
        """Nobody waits or is in flight, nothing is paused, and every window (of at most `longest_s`) is free.

        With every window, nothing would be forgotten by dropping this gate.
        """
        return not self.paused and all(budget.idle(now, longest_s) for budget in self._budgets.values())

    def fork(self, copies: Copies, keys: Collection[str], wake: Callable[[], None]) -> Gate:
        """A copy to be run ahead of time by itself, with the budgets of `keys` and those where anybody waits or flies.

        Its batches have their places but none of their waiters yet: `copies.flows` says whose these are.
        """
        fork = copy(self)
        if self.health is not None:
            health = self.health.fork()
            fork.health = health if isinstance(health, Health) else None
            fork.adaptive_limit = health.limit if isinstance(health, Health) else health
        fork._wake, fork._sockets = wake, self._sockets.fork(copies)
        fork._budgets = OrderedDict()
        for key, budget in self._budgets.items():
            if key in keys or budget.granted or any(lineup.flows for lineup in budget.lineups):
                fork._budgets[key] = budget.fork(copies)
        fork._turns = (self._turns[0].fork(copies), self._turns[1].fork(copies))
        lineups, flows = copies.lineups, copies.flows
        fork._held = [(at, n, lineups[each]) for at, n, each in self._held if n == each.hold_number]
        fork._parked = [(at, n, flows[each]) for at, n, each in self._parked if each in flows]
        heapify(fork._held)
        heapify(fork._parked)
        numbers = [number for _, number, _ in (*fork._held, *fork._parked)]
        fork._sequence = count(max(numbers, default=0) + 1)
        due = {flow for _, _, flow in fork._parked}
        for budget in fork._budgets.values():
            for flow in (*budget.lineups[0].flows, *budget.lineups[1].flows):
                if flow.parked_at is not None and flow not in due:
                    assert flow.own is not None
                    if flow.own.free:  # it was shut: nobody can foretell for how long
                        heappush(fork._parked, (-inf, next(fork._sequence), flow))
                    else:
                        flow.own.block((fork, flow), partial(fork._room, flow))
        return fork

    def _next_lineup(self, now: float) -> tuple[Lineup, bool] | None:
        """The lineup whose turn it is, and whether bulk may go; None when nobody may."""
        classic, adaptive = self._turns
        if not (classic.count or adaptive.count) or self.paused or self.in_flight >= self.limit:
            return None
        if not self._sockets.free:
            self._sockets.block(self, self._wake)
            return None
        found, bulk = None, False
        if classic.count:
            bulk = self.in_flight < _bulk_limit(self.limit)
            found = classic.next(bulk, self._virtual)
        if adaptive.count and (self.health is None or self.health.closed_until(now) <= now):
            limit = self.limit if self.limit < self.adaptive_limit else self.adaptive_limit
            if self.in_flight < limit:
                bulk_too = self.in_flight < _bulk_limit(limit)
                other = adaptive.next(bulk_too, self._virtual)
                if other is not None and (found is None or other[0] <= found[0]):
                    found, bulk = other, bulk_too
        return None if found is None else (found[1], bulk)

    def _note_reasons(self, now: float) -> float:
        """Note why each lane's ready lineups were not served. Until when, where it is for the breaker."""
        classic, adaptive = self._turns
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

    def _place(self, lineup: Lineup, now: float) -> None:
        """Nothing is known to hold this lineup: ready if somebody waits in it, else idle."""
        turns = self._turns[lineup.lane]
        if lineup.root.live:
            if lineup.state is not _READY:
                lineup.become(_READY, now, turns.waits)
                lineup.hold_number = 0
            turns.add(lineup)
        elif lineup.state is not _IDLE:
            lineup.become(_IDLE, now, turns.waits)
            lineup.hold_number = 0
            lineup.rate_due = None
            turns.remove(lineup)

    def _hold(self, lineup: Lineup, until: float, reason: WaitReason, now: float) -> None:
        turns = self._turns[lineup.lane]
        turns.remove(lineup)
        lineup.become(_HELD, now, turns.waits)
        lineup.until, lineup.reason = until, reason
        lineup.rate_due = until if reason is _RATE else None
        lineup.hold_number = next(self._sequence)
        if until < inf:
            heappush(self._held, (until, lineup.hold_number, lineup))

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
        if self.health is not None:
            self.health.granted(waiter, self.in_flight, now)
        waiter.granted_at = now
        turns = self._turns[lineup.lane]
        lineup.fold(now, turns.waits)
        cost = waiter.cost["requests"]
        flow.charge(cost)
        self._virtual = turns.served(lineup, flow.priority, cost, self._virtual)
        self._dequeue(waiter)
        self._place(lineup, now)

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
            if flow.parked_at is not None:
                flow.parked_at = None
                assert flow.own is not None
                flow.own.forget((self, flow))

    def _park(self, flow: BatchFlow, own_due: float, now: float) -> None:
        """Take a batch that its own allowance holds back out of the running."""
        own, lineup = flow.own, flow.lineup
        assert own is not None
        lineup.fold(now, self._turns[lineup.lane].waits)
        flow.park(now, own_due, _RATE if own.free else _CONCURRENCY)
        if own.free and own_due < inf:
            heappush(self._parked, (own_due, next(self._sequence), flow))
        else:
            own.block((self, flow), lambda: self._room(flow))
        self._place(lineup, now)

    def _room(self, flow: BatchFlow) -> None:
        flow.own_due = inf
        heappush(self._parked, (-inf, next(self._sequence), flow))
        self._wake()

    def _drop_one(self) -> None:
        for key, budget in self._budgets.items():
            if budget.idle(self._since, inf):
                budget.dropped = True
                del self._budgets[key]
                return
        raise LookupError(f"{_MOST_BUDGETS} partitions are busy")

    def _accrue(self, now: float) -> None:
        """Add the time since the last look to each lane's reason."""
        if now > self._since:
            for turns in self._turns:
                if turns.reason is not None:
                    turns.waits.add(turns.reason, now - self._since)
            self._since = now


def _bulk_limit(limit: float) -> float:
    """Bulk leaves one permit in ten to the others, at least one where there is more than one."""
    return limit if limit <= 1 or limit == inf else limit - max(1, limit // 10)
