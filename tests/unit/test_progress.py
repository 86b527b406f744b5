from __future__ import annotations

import asyncio
import io
from contextlib import suppress

import pytest

from paceline.cli.io.output_writer import RunTotals
from paceline.cli.ui.progress import ProgressSnapshot, progress_line, show_progress
from support.virtual_clock import virtual_time


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_says_how_far_how_well_how_fast_and_how_long() -> None:
    seen = ProgressSnapshot(1_200, 10_000, RunTotals(succeeded=1_180, failed=15, rejected=5))
    assert progress_line(seen, 50.0) == "1,200 of 10,000 done, 1,180 succeeded, 20 not, 50.0/s, 2m56s left"


def test_without_a_total_there_is_no_time_left() -> None:
    assert progress_line(ProgressSnapshot(3, None, RunTotals(succeeded=3)), 1.5) == "3 done, 3 succeeded, 1.5/s"


@virtual_time
async def test_in_a_pipe_it_is_a_plain_line_every_five_seconds() -> None:
    pipe = io.StringIO()
    await shown(pipe, within_s=11)
    assert pipe.getvalue().splitlines() == [
        "5 of 10 done, 5 succeeded, 1.0/s, 5s left",
        "5 of 10 done, 5 succeeded, 0.5/s, 10s left",
    ]


async def shown(stream: io.StringIO, within_s: float) -> None:
    tally = RunTotals(succeeded=5)

    def seen() -> ProgressSnapshot:
        return ProgressSnapshot(5, 10, tally)

    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await show_progress(seen, stream)


async def test_on_a_terminal_it_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()
    await shown(terminal, within_s=0.5)
    assert "5/10" in terminal.getvalue()
    assert "/s" in terminal.getvalue()
