"""`paceline` with its event loop watched: `python watched.py FILE serve ...`; `seen` asks it.

At SIGUSR1 it writes to FILE, as JSON, what was seen since the last one: how late the loop was at worst (`late_ms`), how
much CPU its thread took at most between two looks (`busy_ms`: work of other processes is not in it), and how many tasks
and file descriptors there are.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

if TYPE_CHECKING:
    from support.children import Child

EVERY_S = 0.001


class Watch:
    """Looks at its loop again and again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, file: Path) -> None:
        self._loop = loop
        self._file = file
        self._late_s = self._busy_s = 0.0
        loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._loop.add_signal_handler(signal.SIGUSR1, self._tell)
        self._due, self._cpu_s = time.perf_counter(), time.thread_time()
        self._look()

    def _look(self) -> None:
        self._late_s = max(self._late_s, time.perf_counter() - self._due)
        self._busy_s = max(self._busy_s, time.thread_time() - self._cpu_s)
        self._due, self._cpu_s = time.perf_counter() + EVERY_S, time.thread_time()
        self._loop.call_later(EVERY_S, self._look)

    def _tell(self) -> None:
        seen = {
            "late_ms": round(self._late_s * 1000, 1),
            "busy_ms": round(self._busy_s * 1000, 1),
            "tasks": len(asyncio.all_tasks(self._loop)),
            "files": len(os.listdir("/proc/self/fd")) - 1,  # the listing's own
        }
        self._late_s = self._busy_s = 0.0
        whole = self._file.with_suffix(".whole")
        whole.write_text(json.dumps(seen))
        whole.replace(self._file)


async def seen(running: Child, file: Path) -> dict[str, Any]:
    """What a watched service has seen since the last time; no connection is open for it."""
    return await asyncio.to_thread(_seen, running, file)


def _seen(running: Child, file: Path) -> dict[str, Any]:
    file.unlink(missing_ok=True)
    running.signal(signal.SIGUSR1)
    ends_at = time.perf_counter() + 30
    while not file.exists():
        if time.perf_counter() > ends_at:
            raise TimeoutError("the service does not answer a signal")
        time.sleep(0.01)
    return dict(json.loads(file.read_text()))


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
