"""A plain table, readable at 80 columns and in a pipe."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left_aligned: Collection[int] = (0,)) -> str:
    """Columns as wide as they need; those of `left` start at the left, the others end at the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.ljust(width) if index in left_aligned else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(aligned).rstrip()

    return "\n".join([line(headings), "  ".join("-" * width for width in widths), *map(line, rows)])
