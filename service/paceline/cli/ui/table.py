"""Tables for a terminal or a pipe, and their cells: plain ASCII, no colour, one line a row."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.box import Box
from rich.console import Console
from rich.table import Table

from paceline.units import format_rounded_duration

_MAX_WIDTH = 10_000
"""Columns. Above any table: rich would shorten cells to the width of the terminal."""

_UNDERLINED_HEAD = Box("    \n    \n -  \n    \n    \n    \n    \n    \n", ascii=True)


def render_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], left_aligned: Collection[int] = (0,), *, gap: int = 2
) -> str:
    """Lay out rows in columns, `gap` spaces apart; columns that are not `left_aligned` end at the right."""
    table = Table(box=_UNDERLINED_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index in left_aligned else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(width=_MAX_WIDTH, color_system=None, force_terminal=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def format_ms(milliseconds: float | None) -> str:
    """Three digits and a unit: `4.21ms`, `42.1ms`, `8.03s`; a dash for none."""
    if milliseconds is None:
        return "-"
    return format_rounded_duration(milliseconds / 1000)
