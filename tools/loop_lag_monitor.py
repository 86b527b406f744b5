"""`paceline` with its event loop watched: `python loop_lag_monitor.py FILE serve ...`; `read_report` asks it.

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
    from tools.processes import ChildProcess

SAMPLE_INTERVAL_S = 0.001


class LoopLagMonitor:
    """Looks at its loop again and again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, file: Path) -> None:
        self._loop = loop
        self._report_file = file
        self._late_s = self._busy_s = 0.0
        loop.call_soon(self._start)

    def _start(self) -> None:
        self._loop.add_signal_handler(signal.SIGUSR1, self._write_report)
        self._due_at, self._cpu_s = time.perf_counter(), time.thread_time()
        self._sample()

    def _sample(self) -> None:
        self._late_s = max(self._late_s, time.perf_counter() - self._due_at)
        self._busy_s = max(self._busy_s, time.thread_time() - self._cpu_s)
        self._due_at, self._cpu_s = time.perf_counter() + SAMPLE_INTERVAL_S, time.thread_time()
        self._loop.call_later(SAMPLE_INTERVAL_S, self._sample)

    def _write_report(self) -> None:
        report = {
            "late_ms": round(self._late_s * 1000, 1),
            "busy_ms": round(self._busy_s * 1000, 1),
            "tasks": len(asyncio.all_tasks(self._loop)),
            "files": len(os.listdir("/proc/self/fd")) - 1,  # the listing's own
        }
        self._late_s = self._busy_s = 0.0
        temporary = self._report_file.with_suffix(".whole")
        temporary.write_text(json.dumps(report))
        temporary.replace(self._report_file)


async def read_report(running: ChildProcess, file: Path) -> dict[str, Any]:
    """What a watched service has seen since the last time; no connection is open for it."""
    return await asyncio.to_thread(_read_report, running, file)


def _read_report(running: ChildProcess, file: Path) -> dict[str, Any]:
    file.unlink(missing_ok=True)
    running.send_signal(signal.SIGUSR1)
    ends_at = time.perf_counter() + 30
    while not file.exists():
        if time.perf_counter() > ends_at:
            raise TimeoutError("the service does not answer a signal")
        time.sleep(0.01)
    return dict(json.loads(file.read_text()))


def main() -> None:
    file = Path(sys.argv.pop(1))
    new_event_loop = uvloop.new_event_loop

    def new_monitored_loop() -> asyncio.AbstractEventLoop:
        loop = new_event_loop()
        LoopLagMonitor(loop, file)
        return loop

    uvloop.new_event_loop = new_monitored_loop
    from paceline.__main__ import main as paceline

    paceline()


if __name__ == "__main__":
    main()
