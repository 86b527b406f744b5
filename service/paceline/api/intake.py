"""What the service has taken on and not answered yet; closed, it takes nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from paceline.api.errors import TooLarge, Unavailable

_DRAINING = {"retry-after": "5"}
_FULL = {"retry-after": "1"}


class Intake:
    """Counts the items in the service, from the moment their batch is accepted until its answer is delivered."""

    def __init__(self) -> None:
        self.is_open = False
        self.items = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def open(self) -> None:
        """Ready for work."""
        self.is_open = True

    def close(self) -> None:
        """Take nothing more; what was taken goes on."""
        self.is_open = False

    @contextmanager
    def taken(self, items: int, most: int) -> Iterator[None]:
        """Hold a place for these items.

        Raises:
            TooLarge: more than the service ever holds at one time.
            Unavailable: it is full for now, or does not take anything any more.
        """
        self.check()
        if items > most:
            raise TooLarge(
                f"{items} items are more than the {most} this service holds at one time; send smaller batches",
                field="requests",
            )
        if self.items + items > most:
            raise Unavailable("the service holds as many items as it may; send it again shortly", headers=_FULL)
        self.items += items
        self._empty.clear()
        try:
            yield
        finally:
            self.items -= items
            if not self.items:
                self._empty.set()

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

    async def emptied(self, within_s: float) -> bool:
        """Wait until every answer is delivered; False when it took too long."""
        try:
            async with asyncio.timeout(within_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
