"""`paceline run`: items from NDJSON, one outcome a line, as fast as their upstreams allow and in constant memory.

Reading, the engine and writing are bound by one number of slots, the look-ahead: an item takes one when it is read and
gives it back when its outcome is written. A reader that is slow makes the run slow, never large.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop
from msgspec import Struct

from paceline.cli.backend import Backend
from paceline.cli.io.id_set import IdSet
from paceline.cli.io.input_file import close_input, count_lines, is_same_file, open_input
from paceline.cli.io.ndjson_reader import NdjsonReader
from paceline.cli.io.output_file import OutputFile, open_output
from paceline.cli.io.output_writer import OutputWriter
from paceline.cli.ui.progress import ProgressSnapshot, show_progress
from paceline.cli.usage_error import UsageError
from paceline.units import format_rounded_duration

EXIT_ALL_SUCCEEDED = 0
EXIT_SOME_FAILED = 1
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE

INTERRUPT_GRACE_S = 5.0
"""Seconds that requests in flight may take after Ctrl-C or SIGTERM; a second signal ends the run at once."""


class RunFiles(Struct, frozen=True):
    """Where a run reads and writes."""

    input: str
    output: str | None
    resume: bool


def run_file(files: RunFiles, open_backend: Callable[[], Backend], lookahead: int) -> int:
    """Run every line of the input; returns the exit code.

    Raises:
        UsageError: the files or the service cannot be used so.
    """
    fd = open_input(files.input)
    try:
        if files.output is not None and is_same_file(files.output, fd):
            raise UsageError(f"{files.output} is the input itself; name another output file")
        output, completed_ids = open_output(files.output, resume=files.resume)
        try:
            return uvloop.run(_run_and_summarize(fd, output, completed_ids, open_backend, lookahead))
        finally:
            output.close()
    finally:
        close_input(fd)


async def _run_and_summarize(
    fd: int, output: OutputFile, completed_ids: IdSet | None, open_backend: Callable[[], Backend], lookahead: int
) -> int:
    reader = NdjsonReader(fd, completed_ids)
    writer = OutputWriter(output, lookahead)
    total = count_lines(fd)
    started_at = time.perf_counter()
    backend = open_backend()
    progress_task = asyncio.create_task(_report_progress(reader, writer, total, is_output_terminal=output.is_terminal))
    try:
        stopped_by = await _run_until_signal(backend, reader, writer)
    finally:
        progress_task.cancel()
        await asyncio.wait({progress_task})
        await backend.close()
        reader.close()
    if stopped_by is BrokenPipeError:
        return EXIT_BROKEN_PIPE
    print(_summary(reader, writer, time.perf_counter() - started_at), file=sys.stderr)
    if isinstance(stopped_by, signal.Signals):
        print(_interruption_message(output, stopped_by), file=sys.stderr)
        return 128 + stopped_by
    totals = writer.totals
    return EXIT_SOME_FAILED if totals.failed or totals.rejected else EXIT_ALL_SUCCEEDED


async def _run_until_signal(
    backend: Backend, reader: NdjsonReader, writer: OutputWriter
) -> signal.Signals | type[BrokenPipeError] | None:
    """Carry every item, or what can be until a signal comes. Returns what ended it early.

    Raises:
        UsageError: the service rejected the run, or the output cannot be written.
    """
    loop = asyncio.get_running_loop()
    signals: list[signal.Signals] = []
    first_signal, second_signal = asyncio.Event(), asyncio.Event()

    def on_signal(signum: signal.Signals) -> None:
        (second_signal if signals else first_signal).set()
        signals.append(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, on_signal, signum)
    running = asyncio.create_task(backend.run(reader, writer))
    writing = asyncio.create_task(writer.write_until_finished())
    stopping = asyncio.create_task(first_signal.wait())
    try:
        await asyncio.wait({running, writing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        failure: BaseException | None = None
        if running.done():
            failure = running.exception()
        elif not writing.done():
            running.cancel()
            await asyncio.wait({running})
            await _await_unless(second_signal, backend.drain(INTERRUPT_GRACE_S))
        if not writing.done():
            # Only finished items are written: cancel those in flight first.
            await backend.close()
            writer.finish()
            await _await_unless(second_signal, asyncio.wait({writing}, timeout=INTERRUPT_GRACE_S if signals else None))
        if writing.done() and (write_error := writing.exception()) is not None:
            failure = write_error
        if isinstance(failure, BrokenPipeError):
            return BrokenPipeError
        if isinstance(failure, OSError):
            raise UsageError(f"the output cannot be written: {failure.strerror}; nothing more was sent")
        if failure is not None:
            raise failure
        return signals[0] if signals else None
    finally:
        for task in (running, writing, stopping):
            task.cancel()
        await asyncio.gather(running, writing, stopping, return_exceptions=True)
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(signum)


async def _await_unless(event: asyncio.Event, work: Coroutine[Any, Any, object]) -> None:
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


async def _report_progress(
    reader: NdjsonReader, writer: OutputWriter, total: int | None, *, is_output_terminal: bool
) -> None:
    """Show progress, unless outcomes go to the same terminal: they would tear up the bar."""

    def take_snapshot() -> ProgressSnapshot:
        return ProgressSnapshot(
            reader.lines_skipped + writer.totals.total, reader.lines_read if reader.is_at_end else total, writer.totals
        )

    if not (is_output_terminal and sys.stderr.isatty()):
        await show_progress(take_snapshot)


def _summary(reader: NdjsonReader, writer: OutputWriter, elapsed_s: float) -> str:
    totals = writer.totals
    per_second = totals.total / elapsed_s if elapsed_s > 0 else 0.0
    took = format_rounded_duration(elapsed_s, decimals=1, clock=True)
    parts = [f"{totals.succeeded:,} succeeded", f"{totals.failed:,} failed", f"{totals.rejected:,} rejected"]
    if reader.lines_skipped:
        parts.append(f"{reader.lines_skipped:,} done before")
    attempts_text = f"{totals.attempts:,} attempts, {totals.retries:,} of them retries"
    return f"{totals.total:,} items in {took} ({per_second:.1f}/s): {', '.join(parts)}; {attempts_text}"


def _interruption_message(output: OutputFile, signum: signal.Signals) -> str:
    cause = "interrupted" if signum is signal.SIGINT else "ended by SIGTERM"
    if not output.can_resume:
        return f"{cause}: the other items were not done"
    return f"{cause}: {output.name} holds what was done; run it again with --resume to do the rest"
