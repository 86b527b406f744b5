"""Where each lineup of one gate stands, and which batches are out of the running.

Rules:

* a lineup is ready, with its turn among the others of its lane, while nothing is known to hold it; held, out of the
  turns, until its budget may pay its head; idle when nobody in it is in the running;
* a batch that its own allowance holds back is parked: until its rate allows it, or until the allowance has room;
* time is put down to what it was spent in: for a ready lineup, to the reason that its lane noted at the last look.

Pure: moments are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf

from paceline.admission.budget import Budget
from paceline.admission.copies import Copies
from paceline.admission.lineup import BatchFlow, Lineup, State
from paceline.admission.turns import Turns
from paceline.model import WaitReason

_READY, _HELD, _IDLE = State.READY, State.HELD, State.IDLE
_RATE, _CONCURRENCY = WaitReason.RATE, WaitReason.CONCURRENCY
_FEW = 64


class Standing:
    """The lineups of one gate; `wake` is called when a batch that was parked may go."""

    __slots__ = ("_held", "_parked", "_sequence", "_swept_at", "_wake", "now", "turns")

    def __init__(self, wake: Callable[[], None]) -> None:
        self.turns = Turns()
        """Who is ready."""
        self.now = 0.0
        """Up to when time was put down to its reason."""
        self._wake = wake
        self._held: list[tuple[float, int, Lineup]] = []
        self._swept_at = _FEW
        """So many held are swept for those that are so no more."""
        self._parked: list[tuple[float, int, BatchFlow]] = []
        self._sequence = count(1)

    def accrue(self, now: float) -> None:
        """Put the time since the last look down to each lane's reason."""
        if now > self.now:
            for turns in self.turns.of:
                if turns.reason is not None:
                    turns.waits.add(turns.reason, now - self.now)
            self.now = now

    def fold(self, flow: BatchFlow, now: float) -> None:
        """Bring what a batch and its lineup waited for up to now."""
        if now > self.now:
            self.accrue(now)
        lineup = flow.lineup
        lineup.fold(now, self.turns.of[lineup.lane].waits)
        if flow.parked_at is not None:
            flow.fold(now)

    def place(self, lineup: Lineup, now: float) -> None:
        """Nothing is known to hold this lineup: ready if somebody waits in it, else idle."""
        turns = self.turns.of[lineup.lane]
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

    def hold(self, lineup: Lineup, until: float, reason: WaitReason, now: float) -> None:
        """Its budget cannot pay its head, or is paused."""
        turns = self.turns.of[lineup.lane]
        turns.remove(lineup)
        lineup.become(_HELD, now, turns.waits)
        lineup.until, lineup.reason = until, reason
        lineup.rate_due = until if reason is _RATE else None
        lineup.hold_number = next(self._sequence)
        if until < inf:
            heappush(self._held, (until, lineup.hold_number, lineup))
            if len(self._held) > self._swept_at:
                self._held = [place for place in self._held if place[1] == place[2].hold_number]
                heapify(self._held)
                self._swept_at = 2 * len(self._held) + _FEW

    def park(self, flow: BatchFlow, own_due: float, now: float) -> None:
        """Take a batch that its own allowance holds back out of the running."""
        own, lineup = flow.own, flow.lineup
        assert own is not None
        lineup.fold(now, self.turns.of[lineup.lane].waits)
        flow.park(now, own_due, _RATE if own.free else _CONCURRENCY)
        if own.free and own_due < inf:
            heappush(self._parked, (own_due, next(self._sequence), flow))
        else:
            own.block((self, flow), partial(self._room, flow))
        self.place(lineup, now)

    def forget(self, flow: BatchFlow) -> None:
        """Nobody waits in this batch any more."""
        if flow.parked_at is not None:
            flow.parked_at = None
            assert flow.own is not None
            flow.own.forget((self, flow))

    def release(self, now: float) -> None:
        """Place all that were held or parked until now."""
        parked, held = self._parked, self._held
        while parked and parked[0][0] <= now:
            flow = heappop(parked)[2]
            if flow.parked_at is not None:
                flow.lineup.fold(now, self.turns.of[flow.lineup.lane].waits)
                flow.unpark(now)
                self.place(flow.lineup, now)
        while held and held[0][0] <= now:
            _, number, lineup = heappop(held)
            if number == lineup.hold_number:
                self.place(lineup, now)

    def next_release(self) -> float:
        """When somebody is held or parked until; `inf` where nobody is."""
        parked, held = self._parked, self._held
        while held and held[0][1] != held[0][2].hold_number:
            heappop(held)
        until = held[0][0] if held else inf
        return parked[0][0] if parked and parked[0][0] < until else until

    def fork(self, copies: Copies, budgets: Iterable[Budget], wake: Callable[[], None]) -> Standing:
        """A copy over the copies of the budgets; see `Gate.fork`."""
        fork = Standing(wake)
        lineups, flows = copies.lineups, copies.flows
        fork.turns, fork.now = self.turns.fork(copies), self.now
        fork._held = [(at, n, lineups[each]) for at, n, each in self._held if n == each.hold_number]
        fork._parked = [(at, n, flows[each]) for at, n, each in self._parked if each in flows]
        heapify(fork._held)
        heapify(fork._parked)
        numbers = [number for _, number, _ in (*fork._held, *fork._parked)]
        fork._sequence = count(max(numbers, default=0) + 1)
        due = {flow for _, _, flow in fork._parked}
        for budget in budgets:
            for flow in (*budget.lineups[0].flows, *budget.lineups[1].flows):
                if flow.parked_at is not None and flow not in due:
                    assert flow.own is not None
                    if flow.own.free:  # it was shut: nobody can foretell for how long
                        heappush(fork._parked, (-inf, next(fork._sequence), flow))
                    else:
                        flow.own.block((fork, flow), partial(fork._room, flow))
        return fork

    def _room(self, flow: BatchFlow) -> None:
        flow.own_due = inf
        heappush(self._parked, (-inf, next(self._sequence), flow))
        self._wake()
