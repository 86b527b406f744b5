"""`paceline` with a watch on its event loop: `python watched.py FILE serve ...` writes the longest block to FILE.

The watch asks for the loop every millisecond and takes the CPU time its thread has used in between, so that a machine
with other work on it does not look like a blocked loop. SIGUSR1 forgets what was seen and writes anew.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import uvloop

EVERY_S = 0.001


class Watch:
    """Ticks on a loop; `worst_s` is the most CPU between two ticks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, file: Path) -> None:
        self._loop = loop
        self._file = file
        loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._loop.add_signal_handler(signal.SIGUSR1, self._forget)
        self._forget()
        self._tick()

    def _forget(self) -> None:
        self.worst_s = 0.0
        self._file.write_text("0")
        self._last_s = time.thread_time()

    def _tick(self) -> None:
        now_s = time.thread_time()
        if now_s - self._last_s > self.worst_s:
            self.worst_s = now_s - self._last_s
            self._file.write_text(str(self.worst_s))
        self._last_s = time.thread_time()
        self._loop.call_later(EVERY_S, self._tick)


def main() -> None:
    file = Path(sys.argv.pop(1))
    make = uvloop.new_event_loop

    def watched() -> asyncio.AbstractEventLoop:
        loop = make()
        Watch(loop, file)
        return loop

    uvloop.new_event_loop = watched
    from paceline.__main__ import main as paceline

    paceline()


if __name__ == "__main__":
    main()
