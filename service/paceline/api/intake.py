"""What the service has taken on and not answered yet: items, bodies and answers; closed, it takes nothing more.

It is full when it holds as many items as `server.max_in_flight_items`, or the bodies or the answers of as many whole
batches as that makes. A caller is over its share when the service is more than half full and the caller, who holds
something already, would hold more than its weight's part of the whole. Everything here is synchronous: no await
between a check and what it allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from paceline.api.errors import OverShare, TooLarge, Unavailable
from paceline.config.server import Server
from paceline.model import Tenant

HEAVIEST = 4
"""A byte of a body that is no item's payload counts so often: read, it takes that much more memory than a payload."""

_DRAINING = {"retry-after": "5"}
_AGAIN = {"retry-after": "1"}


class Bounds(Struct, frozen=True):
    """The most the service holds at one time."""

    items: int
    body_bytes: int
    answer_bytes: int
    weights: float
    """The sum of all callers' weights; 0 where everybody is the same caller."""


def bounds_of(limits: Server) -> Bounds:
    """Items as configured, and the bytes of as many whole batches as they make; one batch always fits."""
    batches = max(1, -(-limits.max_in_flight_items // limits.max_items))
    return Bounds(
        limits.max_in_flight_items,
        max(batches, HEAVIEST) * limits.max_body,
        batches * limits.max_batch_response,
        sum(key.weight for key in limits.api_keys),
    )


class Holding(Struct):
    """What is held, by one caller or by all."""

    items: int = 0
    body_bytes: int = 0
    answer_bytes: int = 0


class Intake:
    """Counts what is in the service, from the moment a request is let in until its answer is delivered."""

    def __init__(self) -> None:
        self.is_open = self.is_ready = False
        self.held = Holding()
        self._callers: dict[str, Holding] = {}
        self._limits: Server | None = None
        self._bounds = Bounds(0, 0, 0, 0)
        self._empty = asyncio.Event()
        self._empty.set()
        self.is_crowded = False
        """It keeps as many bytes of answers as it may."""
        self.watching: dict[Place, Callable[[], None]] = {}
        """Who is told when `is_crowded` changes."""

    @property
    def items(self) -> int:
        return self.held.items

    def open(self) -> None:
        """Ready for work."""
        self.is_open = self.is_ready = True

    def leave(self) -> None:
        """Be unready, so that nobody is sent here any more; who still comes is let in."""
        self.is_ready = False

    def close(self) -> None:
        """Take nothing more; what was taken goes on."""
        self.is_open = self.is_ready = False

    @contextmanager
    def place(self, tenant: Tenant, limits: Server) -> Iterator[Place]:
        """Let a request in, before its body is read.

        Raises:
            OverShare, Unavailable: not even one item more would be taken.
        """
        self.check()
        bounds = self._bounds_of(limits)
        own = self._callers.setdefault(tenant.name, Holding())
        _admit(own.items, self.held.items, 1, bounds.items, _share(tenant, bounds))
        if self.held.answer_bytes >= bounds.answer_bytes:
            raise Unavailable("the service holds as many answers as it may; send it again shortly", headers=_AGAIN)
        place = Place(self, tenant, bounds, own)
        try:
            yield place
        finally:
            place.give_back()

    def check(self) -> None:
        """Refuse early, before a body is read.

        Raises:
            Unavailable: the service is shutting down.
        """
        if not self.is_open:
            raise Unavailable(
                "the service is shutting down; send it again, to another instance if there is one",
                code="draining",
                headers=_DRAINING,
            )

    def moved(self) -> None:
        """Items came or went."""
        if self.held.items:
            self._empty.clear()
        else:
            self._empty.set()

    def answers_changed(self) -> None:
        """Bytes of answers came or went. Crowded, it is so until an eighth is free: telling everybody takes a while."""
        most = self._bounds.answer_bytes
        is_crowded = self.held.answer_bytes >= (most - most // 8 if self.is_crowded else most)
        if is_crowded is not self.is_crowded:
            self.is_crowded = is_crowded
            for told in list(self.watching.values()):
                told()

    async def emptied(self, within_s: float) -> bool:
        """Wait until every answer is delivered; False when it took too long."""
        try:
            async with asyncio.timeout(within_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _bounds_of(self, limits: Server) -> Bounds:
        if limits is not self._limits:
            self._limits, self._bounds = limits, bounds_of(limits)
        return self._bounds


class Place:
    """What one request holds of the service."""

    __slots__ = ("_bounds", "_held", "_intake", "_own", "_share")

    def __init__(self, intake: Intake, tenant: Tenant, bounds: Bounds, own: Holding) -> None:
        self._intake = intake
        self._bounds = bounds
        self._share = _share(tenant, bounds)
        self._own = own
        self._held = Holding()

    def hold_body(self, size: int) -> None:
        """Room for a body of this size in all, told before it is read or as it grows; less than before gives back.

        Raises:
            OverShare, Unavailable: there is none for now.
        """
        own, everybody = self._own, self._intake.held
        more = size - self._held.body_bytes
        if more > 0:
            _admit(own.body_bytes, everybody.body_bytes, more, self._bounds.body_bytes, self._share)
        own.body_bytes += more
        everybody.body_bytes += more
        self._held.body_bytes = size

    def hold_items(self, items: int) -> None:
        """Room for these items, once.

        Raises:
            TooLarge: more than the service ever holds at one time.
            OverShare, Unavailable: there is none for now, or nothing is taken any more.
        """
        self._intake.check()
        most = self._bounds.items
        if items > most:
            raise TooLarge(
                f"{items} items are more than the {most} this service holds at one time; send smaller batches",
                field="requests",
            )
        own, everybody = self._own, self._intake.held
        _admit(own.items, everybody.items, items, most, self._share)
        own.items += items
        everybody.items += items
        self._held.items += items
        self._intake.moved()

    def hold_answer(self, size: int, *, needed: bool = False) -> bool:
        """Keep so many more bytes of an answer; False, and nothing is kept, where there is no room and no need."""
        everybody = self._intake.held
        if not needed and everybody.answer_bytes + size > self._bounds.answer_bytes:
            return False
        everybody.answer_bytes += size
        self._held.answer_bytes += size
        self._intake.answers_changed()
        return True

    def free_answer(self, size: int) -> None:
        """So many bytes of the answer were handed over."""
        self._intake.held.answer_bytes -= size
        self._held.answer_bytes -= size
        self._intake.answers_changed()

    @property
    def is_crowded(self) -> bool:
        """The service keeps as many bytes of answers as it may."""
        return self._intake.is_crowded

    def watch(self, told: Callable[[], None]) -> None:
        """Call `told` whenever `is_crowded` changes, as long as the place is held."""
        self._intake.watching[self] = told

    def give_back(self) -> None:
        """Hold nothing any more."""
        held, own, everybody = self._held, self._own, self._intake.held
        own.items -= held.items
        own.body_bytes -= held.body_bytes
        everybody.items -= held.items
        everybody.body_bytes -= held.body_bytes
        everybody.answer_bytes -= held.answer_bytes
        self._held = Holding()
        self._intake.watching.pop(self, None)
        self._intake.answers_changed()
        self._intake.moved()


def _share(tenant: Tenant, bounds: Bounds) -> float:
    return min(1.0, tenant.weight / bounds.weights) if bounds.weights else 1.0


def _admit(own: int, everybody: int, more: int, most: int, share: float) -> None:
    """Take so many more, or raise; who holds nothing yet is never over its share."""
    after = everybody + more
    if own and share < 1 and after > most / 2 and own + more > most * share:
        raise OverShare(
            "the service is more than half full and this API key holds its share of it; send it again when some of its "
            "requests are answered",
            headers=_AGAIN,
        )
    if after > most:
        raise Unavailable("the service holds as much as it may; send it again shortly", headers=_AGAIN)
