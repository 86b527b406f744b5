"""Disconnect a client that does not read its response, so that its reservation is released."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from fcntl import ioctl
from struct import Struct as Layout
from termios import TIOCOUTQ

MIN_READ_BYTES_PER_S = 4 * 1024
"""Bytes a second below which a client is too slow."""

_INT = Layout("i")


class SlowReaderGuard:
    """Checks every `check_interval_s`, while it is started, how much one client has read."""

    def __init__(self, transport: asyncio.Transport, check_interval_s: float) -> None:
        self._transport = transport
        self._check_interval_s = check_interval_s
        self._check_timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._check_timer is None:
            loop = asyncio.get_running_loop()
            self._check_timer = loop.call_later(
                self._check_interval_s, self._check_progress, self._count_unread_bytes()
            )

    def stop(self) -> None:
        if self._check_timer is not None:
            self._check_timer.cancel()
            self._check_timer = None

    def _check_progress(self, unread_before: int) -> None:
        self._check_timer = None
        if unread_before - self._count_unread_bytes() < MIN_READ_BYTES_PER_S * self._check_interval_s:
            self._transport.abort()
        else:
            self.start()

    def _count_unread_bytes(self) -> int:
        """Bytes on their way to the client, in our buffer and in the system's, which takes megabytes at a time."""
        unread = self._transport.get_write_buffer_size()
        with suppress(OSError):
            fd = self._transport.get_extra_info("socket").fileno()
            (queued,) = _INT.unpack(ioctl(fd, TIOCOUTQ, bytes(_INT.size)))
            unread += queued
        return unread
