"""Hangs up on a caller that does not take its answer: what it holds in the service is freed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from fcntl import ioctl
from struct import Struct as Layout
from termios import TIOCOUTQ

SLOWEST_TAKEN = 4 * 1024
"""Bytes a second below which a caller is too slow."""

_INT = Layout("i")


class Taking:
    """A watch on what one caller takes, looked at every `every_s` while it is on."""

    def __init__(self, transport: asyncio.Transport, every_s: float) -> None:
        self._transport = transport
        self._every_s = every_s
        self._next_look: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        if self._next_look is None:
            loop = asyncio.get_running_loop()
            self._next_look = loop.call_later(self._every_s, self._look, self._untaken())

    def stop(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _look(self, left_before: int) -> None:
        self._next_look = None
        if left_before - self._untaken() < SLOWEST_TAKEN * self._every_s:
            self._transport.abort()
        else:
            self.watch()

    def _untaken(self) -> int:
        """Bytes on their way to the caller: ours, and the system's, which takes megabytes of ours at a time."""
        left = self._transport.get_write_buffer_size()
        with suppress(OSError):
            files = self._transport.get_extra_info("socket").fileno()
            (queued,) = _INT.unpack(ioctl(files, TIOCOUTQ, bytes(_INT.size)))
            left += queued
        return left
