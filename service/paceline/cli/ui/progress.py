"""Progress of a run: a bar on a terminal, else a plain line every few seconds."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from msgspec import Struct

from paceline.cli.io.output_writer import RunTotals
from paceline.units import format_rounded_duration

if TYPE_CHECKING:
    from rich.progress import Progress

_BAR_INTERVAL_S = 0.1
_LINE_INTERVAL_S = 5.0
_THROUGHPUT_WINDOW_S = 10.0


class ProgressSnapshot(Struct, frozen=True):
    """What is known of a run's progress at one moment."""

    done: int
    total: int | None
    totals: RunTotals


class ThroughputMeter:
    """Items a second over the last ten seconds."""

    def __init__(self, now: float) -> None:
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])

    def record(self, now: float, done: int) -> float:
        samples = self._samples
        samples.append((now, done))
        while len(samples) > 2 and samples[1][0] <= now - _THROUGHPUT_WINDOW_S:
            samples.popleft()
        started_at, done_at_start = samples[0]
        return (done - done_at_start) / (now - started_at) if now > started_at else 0.0


async def show_progress(take_snapshot: Callable[[], ProgressSnapshot], stream: TextIO | None = None) -> None:
    """Show it until cancelled, on the standard error: a bar on a terminal, else a line every five seconds.

    On a terminal that also shows the outcomes themselves there is neither.
    """
    stream = stream or sys.stderr
    meter = ThroughputMeter(time.perf_counter())
    if not stream.isatty():
        while True:
            await asyncio.sleep(_LINE_INTERVAL_S)
            snapshot = take_snapshot()
            print(
                progress_line(snapshot, meter.record(time.perf_counter(), snapshot.totals.total)),
                file=stream,
                flush=True,
            )
    with _progress_bar(stream) as bar:
        task = bar.add_task("paceline", total=None, speed="", failed="")
        try:
            while True:
                _update_bar(bar, task, take_snapshot(), meter)
                await asyncio.sleep(_BAR_INTERVAL_S)
        finally:
            _update_bar(bar, task, take_snapshot(), meter)


def progress_line(snapshot: ProgressSnapshot, per_second: float) -> str:
    """One line: how many are done, how they ended, how fast it goes and how long it will take."""
    total_text = f" of {snapshot.total:,}" if snapshot.total is not None else ""
    text = f"{snapshot.done:,}{total_text} done, {snapshot.totals.succeeded:,} succeeded"
    unsuccessful = snapshot.totals.failed + snapshot.totals.rejected
    if unsuccessful:
        text += f", {unsuccessful:,} not"
    text += f", {per_second:.1f}/s"
    if snapshot.total is not None and per_second > 0 and snapshot.total > snapshot.done:
        remaining_s = (snapshot.total - snapshot.done) / per_second
        text += f", {format_rounded_duration(remaining_s, decimals=0, clock=True)} left"
    return text


def _progress_bar(stream: TextIO) -> Progress:
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
        speed_estimate_period=_THROUGHPUT_WINDOW_S,
    )


def _update_bar(bar: Progress, task: object, snapshot: ProgressSnapshot, meter: ThroughputMeter) -> None:
    per_second = meter.record(time.perf_counter(), snapshot.totals.total)
    unsuccessful = snapshot.totals.failed + snapshot.totals.rejected
    bar.update(
        bar.task_ids[0],
        completed=snapshot.done,
        total=snapshot.total,
        speed=f"{per_second:.1f}/s",
        failed=f"{unsuccessful:,} not ok" if unsuccessful else "",
    )
