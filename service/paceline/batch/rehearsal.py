"""A batch led through copies of its gates in virtual time.

The order is that of `batch/runner.py` and `upstream/pipeline.py`: an item is ready when its turn has come and what it
depends on is done; then semaphore, token bucket, admission. Every call succeeds, so retries are not forecast; nothing
is ended at the deadline, but what would be over after it is counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import inf

from paceline.admission.forecast import Course, Forecast
from paceline.admission.lineup import BatchFlow, Waiter
from paceline.batch.prepare import Preparation
from paceline.batch.virtual_bucket import VirtualBucket
from paceline.errors import Rejected
from paceline.model import Batch, Cost, Item, Receipt, Strategy
from paceline.upstream.pipeline import lane_of, own_allowance, own_cap
from paceline.upstream.registry import Registry, Upstream

_AT_ONCE = 64
"""Items started before the caller gets a turn."""


class Row:
    """What becomes of the items of one upstream; those of undeclared hosts share one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.items = self.misses = self.rejected = 0
        self.left = 0
        """Items that are neither over nor rejected."""
        self.finished_at: float | None = None
        self.receipt = Receipt()
        """Of all its items together."""
        self.courses: list[Course] = []


class _Stop:
    """Where some items go, and what each costs."""

    __slots__ = ("cost", "course", "flow", "key", "row", "upstream")

    def __init__(self, upstream: Upstream, key: str, cost: Cost, row: Row) -> None:
        self.upstream, self.key, self.cost, self.row = upstream, key, cost, row
        self.course: Course | None = None
        self.flow: BatchFlow | None = None
        """None where it cannot be sent."""


class Rehearsal:
    """`add` every item, then `open`, `run` to the end, and read the rows.

    `lookahead`: at most so many items are on their way at once, as in a run from a file. `call_s`: how long every call
    takes, where it is not to be what each upstream's calls took so far.
    """

    def __init__(self, registry: Registry, batch: Batch, lookahead: float = inf, call_s: float | None = None) -> None:
        self.rows: dict[str, Row] = {}
        self.rejected = 0
        self.halted = False
        self.asked = 0.0
        """What it spent of the batch's own rate."""
        self.semaphore_s = 0.0
        """How long items waited for the batch's own semaphore."""
        self.bucket: VirtualBucket | None = None
        self.began_at = 0.0
        self.batch = batch
        self._preparation = Preparation(registry, batch, inf)
        self._call_s = call_s
        self._allowance = own_allowance(batch)
        self._stops: dict[tuple[Upstream, str, object], _Stop] = {}
        self._plan: list[_Stop | None] = []
        self._slots = 1 if batch.strategy is Strategy.SEQUENTIAL else lookahead
        self._permits = own_cap(batch)
        self._at_semaphore: deque[tuple[int, float]] = deque()
        self._rows_of: dict[BatchFlow, Row] = {}
        self._left = 0
        self._missing: dict[int, int] = {}
        self._followers: dict[int, list[int]] = {}
        self._broken: set[int] = set()
        """Items that depend on one that was rejected."""
        self._waiting: set[int] = set()
        """Items whose turn has come, but what they depend on is not done."""
        self._needed: dict[Waiter, int] = {}

    def add(self, item: Item) -> None:
        """The next item."""
        try:
            upstream, request = self._preparation.request(item)
        except Rejected:
            self._plan.append(None)
            return
        key, cost = upstream.key_of(request), request.cost
        what = (upstream, key, cost["requests"] if len(cost) == 1 else frozenset(cost.items()))
        stop = self._stops.get(what)
        if stop is None:
            row = self.rows.setdefault(upstream.name, Row(upstream.name))
            stop = self._stops[what] = _Stop(upstream, key, cost, row)
        stop.row.items += 1
        self._plan.append(stop)

    def add_unusable(self) -> None:
        """An item that is none."""
        self._plan.append(None)

    def open(self, now: float, needs: Mapping[int, Sequence[int]], order: Sequence[int] | None = None) -> None:
        """Copy the gates as they stand: from here on time is virtual."""
        self.began_at = now
        self.forecast = Forecast(now, self._settled)
        self._deadline = now + self.batch.deadline_s
        if self.batch.strategy is Strategy.TOKEN_BUCKET:
            assert self.batch.rate is not None
            self.bucket = VirtualBucket(self.batch.rate, self.forecast)
        self._missing = {index: len(set(wanted)) for index, wanted in needs.items()}
        for index, wanted in needs.items():
            for need in set(wanted):
                self._followers.setdefault(need, []).append(index)
        self._open_courses()
        self._order = iter(range(len(self._plan)) if order is None else order)
        self._left = len(self._plan)
        self.forecast.over = not self._left

    def run(self) -> Iterator[None]:
        """Lead every item to its end, or as far as it goes."""
        while self._slots > 0 and self._read():
            yield
        yield from self.forecast.run()
        if self.halted:
            for row in self.rows.values():
                row.rejected += row.left
                row.left = 0
            self.rejected += self._left
        else:
            for row in self.rows.values():
                row.misses += row.left

    def _open_courses(self) -> None:
        batch, tenant = self.batch, self.batch.tenant
        keys: dict[Upstream, set[str]] = {}
        for stop in self._stops.values():
            keys.setdefault(stop.upstream, set()).add(stop.key)
        courses: dict[Upstream, Course] = {}
        flows: dict[tuple[Upstream, str], BatchFlow] = {}
        for upstream, wanted in keys.items():
            admitter = upstream.admitter
            seen = admitter.call_time
            call_s = seen.mean_s if self._call_s is None else self._call_s
            courses[upstream] = self.forecast.take(admitter.gate, call_s, wanted, reuses=seen.reuses)
            self.rows[upstream.name].courses.append(courses[upstream])
        for stop in self._stops.values():
            gate = courses[stop.upstream].gate
            stop.row.left = stop.row.items
            if gate.budgets.refusal(stop.cost, self._allowance) is not None or self._above_bucket(stop.cost):
                continue
            place = (stop.upstream, stop.key)
            if place not in flows:
                try:
                    flows[place] = gate.open(
                        lane_of(batch), batch.priority, tenant.name, self._allowance, weight=tenant.weight, key=stop.key
                    )
                except LookupError:  # so many partitions are busy that it would be refused
                    continue
                self._rows_of[flows[place]] = stop.row
                courses[stop.upstream].watch(flows[place])
            stop.flow, stop.course = flows[place], courses[stop.upstream]

    def _above_bucket(self, cost: Cost) -> bool:
        return self.bucket is not None and cost["requests"] > self.bucket.rate.limit

    def _read(self, most: int = _AT_ONCE) -> bool:
        """Start the next items, as many as there are slots for; False when there are no more."""
        for _ in range(most):
            if self._slots <= 0 or self.halted:
                break
            index = next(self._order, None)
            if index is None:
                return False
            self._slots -= 1
            if self._missing.get(index):
                self._waiting.add(index)
            else:
                self._start(index)
        return not self.halted

    def _start(self, index: int) -> None:
        """Its turn has come and what it depends on is done."""
        stop = self._plan[index]
        if stop is None or stop.flow is None or index in self._broken:
            self._reject(index)
        elif self._permits is None:
            self._past_semaphore(index)
        elif self._permits:
            self._permits -= 1
            self._past_semaphore(index)
        else:
            self._at_semaphore.append((index, self.forecast.now))

    def _past_semaphore(self, index: int) -> None:
        stop = self._plan[index]
        assert stop is not None
        if self.bucket is None:
            self._offer(stop, index)
        else:
            self.bucket.take(stop.cost["requests"], partial(self._offer, stop, index))

    def _offer(self, stop: _Stop, index: int) -> None:
        assert stop.flow is not None
        assert stop.course is not None
        if self.batch.rate is not None:
            self.asked += stop.cost.get(self.batch.rate.unit, 0.0)
        waiter = Waiter(stop.flow, stop.cost, stop.row.receipt)
        if index in self._followers:
            self._needed[waiter] = index
        stop.course.offer(waiter)

    def _reject(self, index: int) -> None:
        """It would never be sent; nor would what depends on it."""
        stop = self._plan[index]
        self.rejected += 1
        if stop is not None:
            stop.row.rejected += 1
            stop.row.left -= 1
        self._left -= 1
        self._slots += 1
        if self.batch.halt:
            self.halted = True
        self.forecast.over = self.halted or not self._left
        self._release(index, broken=True)

    def _settled(self, waiter: Waiter) -> None:
        row = self._rows_of.get(waiter.flow)
        if row is None:
            return  # somebody else's
        now = self.forecast.now
        row.finished_at = now
        row.left -= 1
        if not row.left:
            for course in row.courses:
                course.watched = False
        if now > self._deadline:
            row.misses += 1
        self._left -= 1
        if not self._left:
            self.forecast.over = True
        self._slots += 1
        if self._permits is not None:
            self._permits += 1
            if self._at_semaphore:
                index, since = self._at_semaphore.popleft()
                self.semaphore_s += now - since
                self._permits -= 1
                self._past_semaphore(index)
        if self._needed and (done := self._needed.pop(waiter, None)) is not None:
            self._release(done, broken=False)
        while self._slots > 0 and self._slots < inf and self._read(1):
            pass

    def _release(self, index: int, *, broken: bool) -> None:
        """Those that waited for it, and maybe for others."""
        for follower in self._followers.get(index, ()):
            if broken:
                self._broken.add(follower)
            self._missing[follower] -= 1
            if not self._missing[follower] and follower in self._waiting:
                self._waiting.discard(follower)
                self.forecast.at(self.forecast.now, self._start, follower)
