"""`paceline run`: items from NDJSON, one outcome a line, as fast as their upstreams allow and in constant memory.

Reading, the engine and writing are bound by one number of slots, the look-ahead: an item takes one when it is read and
gives it back when its outcome is written. A reader that is slow makes the run slow, never large.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

import uvloop
from msgspec import Struct

from paceline.cli.ids import IdSet
from paceline.cli.options import UsageProblem
from paceline.cli.outlet import Outlet
from paceline.cli.progress import Seen, clock, count_lines, show_progress
from paceline.cli.sink import Sink, open_sink, same_file
from paceline.cli.source import Source

ALL_SUCCEEDED = 0
SOME_DID_NOT = 1
USAGE = 2
NOBODY_READS = 128 + signal.SIGPIPE

GRACE_S = 5.0
"""How long what is in flight may go on after Ctrl-C or SIGTERM; a second one ends it at once."""

_STDIN = 0


class Way(Protocol):
    """How items get their outcomes: on the engine here, or through a service."""

    async def carry(self, source: Source, outlet: Outlet) -> None:
        """Read, send and await every item."""

    async def settle(self, within_s: float) -> None:
        """After `carry` was cancelled: let what is in flight end."""

    async def close(self) -> None:
        """Let go of everything."""


class Files(Struct, frozen=True):
    """Where a run reads and writes."""

    input: str
    output: str | None
    resume: bool


def run(files: Files, open_way: Callable[[], Way], lookahead: int) -> int:
    """Run every line of the input; returns the exit code.

    Raises:
        UsageProblem: the files or the service cannot be used so.
    """
    fd = open_input(files.input)
    try:
        if files.output is not None and same_file(files.output, fd):
            raise UsageProblem(f"{files.output} is the input itself; name another output file")
        sink, done = open_sink(files.output, resume=files.resume)
        try:
            return uvloop.run(_run(fd, sink, done, open_way, lookahead))
        finally:
            sink.close()
    finally:
        if fd != _STDIN:
            os.close(fd)


async def _run(fd: int, sink: Sink, done: IdSet | None, open_way: Callable[[], Way], lookahead: int) -> int:
    source = Source(fd, done)
    outlet = Outlet(sink, lookahead)
    total = count_lines(fd)
    began = time.perf_counter()
    way = open_way()
    told = asyncio.create_task(_tell(source, outlet, total, beside=sink.on_terminal))
    try:
        ended_by = await _carry(way, source, outlet)
    finally:
        told.cancel()
        await asyncio.wait({told})
        await way.close()
        source.close()
    if ended_by is BrokenPipeError:
        return NOBODY_READS
    print(_summary(source, outlet, time.perf_counter() - began), file=sys.stderr)
    if isinstance(ended_by, signal.Signals):
        print(_interrupted(sink, ended_by), file=sys.stderr)
        return 128 + ended_by
    tally = outlet.tally
    return SOME_DID_NOT if tally.failed or tally.rejected else ALL_SUCCEEDED


async def _carry(way: Way, source: Source, outlet: Outlet) -> signal.Signals | type[BrokenPipeError] | None:
    """Carry every item, or what can be until a signal comes. Returns what ended it early.

    Raises:
        UsageProblem: the service or the output refused to go on.
    """
    loop = asyncio.get_running_loop()
    signals: list[signal.Signals] = []
    first, second = asyncio.Event(), asyncio.Event()

    def stop(number: signal.Signals) -> None:
        (second if signals else first).set()
        signals.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    carrying = asyncio.create_task(way.carry(source, outlet))
    writing = asyncio.create_task(outlet.write())
    stopping = asyncio.create_task(first.wait())
    try:
        await asyncio.wait({carrying, writing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        failure: BaseException | None = None
        if carrying.done():
            failure = carrying.exception()
        elif not writing.done():
            carrying.cancel()
            await asyncio.wait({carrying})
            await _unless(second, way.settle(GRACE_S))
        if not writing.done():
            # Only what is finished is written: what is still on its way is let go first.
            await way.close()
            outlet.finish()
            await _unless(second, asyncio.wait({writing}, timeout=GRACE_S if signals else None))
        if writing.done() and (fault := writing.exception()) is not None:
            failure = fault
        if isinstance(failure, BrokenPipeError):
            return BrokenPipeError
        if isinstance(failure, OSError):
            raise UsageProblem(f"the output cannot be written: {failure.strerror}; nothing more was sent")
        if failure is not None:
            raise failure
        return signals[0] if signals else None
    finally:
        for task in (carrying, writing, stopping):
            task.cancel()
        await asyncio.gather(carrying, writing, stopping, return_exceptions=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, object]) -> None:
    """Await the work, but no longer than until the event."""
    working = asyncio.create_task(work)
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)
    if not working.cancelled():
        working.result()


async def _tell(source: Source, outlet: Outlet, total: int | None, *, beside: bool) -> None:
    """Show how far it is; a bar would be torn up by outcomes that are shown `beside` it."""

    def seen() -> Seen:
        return Seen(source.skipped + outlet.tally.total, source.read if source.ended else total, outlet.tally)

    if not (beside and sys.stderr.isatty()):
        await show_progress(seen)


def open_input(path: str) -> int:
    """A descriptor of a file, or of the standard input for `-`.

    Raises:
        UsageProblem: it cannot be read.
    """
    if path == "-":
        return _STDIN
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageProblem(f"{path} cannot be read: {error.strerror}") from None
    with suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    return fd


def _summary(source: Source, outlet: Outlet, elapsed_s: float) -> str:
    tally = outlet.tally
    per_second = tally.total / elapsed_s if elapsed_s > 0 else 0.0
    took = f"{elapsed_s:.1f}s" if elapsed_s < 60 else clock(elapsed_s)
    parts = [f"{tally.succeeded:,} succeeded", f"{tally.failed:,} failed", f"{tally.rejected:,} rejected"]
    if source.skipped:
        parts.append(f"{source.skipped:,} done before")
    tries = f"{tally.attempts:,} attempts, {tally.retries:,} of them retries"
    return f"{tally.total:,} items in {took} ({per_second:.1f}/s): {', '.join(parts)}; {tries}"


def _interrupted(sink: Sink, number: signal.Signals) -> str:
    what = "interrupted" if number is signal.SIGINT else "ended by SIGTERM"
    if not sink.can_resume:
        return f"{what}: the other items were not done"
    return f"{what}: {sink.name} holds what was done; run it again with --resume to do the rest"
