"""How far a run is: a bar where somebody watches, a plain line every few seconds where not."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from msgspec import Struct

from paceline.cli.outlet import Tally

if TYPE_CHECKING:
    from rich.progress import Progress

_BAR_EVERY_S = 0.1
_LINE_EVERY_S = 5.0
_SPEED_OVER_S = 10.0
_BLOCK = 1 << 20


class Seen(Struct, frozen=True):
    """What is known of a run's progress at one moment."""

    done: int
    total: int | None
    tally: Tally


class Speed:
    """Items a second over the last ten seconds."""

    def __init__(self, now: float) -> None:
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])

    def note(self, now: float, done: int) -> float:
        samples = self._samples
        samples.append((now, done))
        while len(samples) > 2 and samples[1][0] <= now - _SPEED_OVER_S:
            samples.popleft()
        began, before = samples[0]
        return (done - before) / (now - began) if now > began else 0.0


async def show_progress(seen: Callable[[], Seen], stream: TextIO | None = None) -> None:
    """Show it until cancelled, on the standard error: a bar on a terminal, else a line every five seconds.

    On a terminal that also shows the outcomes themselves there is neither.
    """
    stream = stream or sys.stderr
    speed = Speed(time.perf_counter())
    if not stream.isatty():
        while True:
            await asyncio.sleep(_LINE_EVERY_S)
            now = seen()
            print(line(now, speed.note(time.perf_counter(), now.tally.total)), file=stream, flush=True)
    with _bar(stream) as bar:
        task = bar.add_task("paceline", total=None, speed="", failed="")
        try:
            while True:
                _draw(bar, task, seen(), speed)
                await asyncio.sleep(_BAR_EVERY_S)
        finally:
            _draw(bar, task, seen(), speed)


def line(seen: Seen, per_second: float) -> str:
    """One line: how many are done, how they ended, how fast it goes and how long it will take."""
    of = f" of {seen.total:,}" if seen.total is not None else ""
    told = f"{seen.done:,}{of} done, {seen.tally.succeeded:,} succeeded"
    not_well = seen.tally.failed + seen.tally.rejected
    if not_well:
        told += f", {not_well:,} not"
    told += f", {per_second:.1f}/s"
    if seen.total is not None and per_second > 0 and seen.total > seen.done:
        told += f", {clock((seen.total - seen.done) / per_second)} left"
    return told


def clock(seconds: float) -> str:
    """`42s`, `3m10s`, `2h05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def count_lines(fd: int) -> int | None:
    """How many lines a plain file holds from here on, without moving in it; None for a pipe or a terminal."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return None
    at, lines, last = os.lseek(fd, 0, os.SEEK_CUR), 0, b"\n"
    while block := os.pread(fd, _BLOCK, at):
        lines += block.count(b"\n")
        at, last = at + len(block), block[-1:]
    return lines + (last != b"\n")


def _bar(stream: TextIO) -> Progress:
    # Imported here: a run in a pipe, and every other command, starts without it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("[red]{task.fields[failed]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(file=stream),
        refresh_per_second=5,
        speed_estimate_period=_SPEED_OVER_S,
    )


def _draw(bar: Progress, task: object, seen: Seen, speed: Speed) -> None:
    per_second = speed.note(time.perf_counter(), seen.tally.total)
    not_well = seen.tally.failed + seen.tally.rejected
    bar.update(
        bar.task_ids[0],
        completed=seen.done,
        total=seen.total,
        speed=f"{per_second:.1f}/s",
        failed=f"{not_well:,} not ok" if not_well else "",
    )
