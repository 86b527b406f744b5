"""What `paceline demo` shows at the end, computed from what both sides counted."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from paceline.batch.compare import StrategyResult
from paceline.cli.ui.compare_report import success_count
from paceline.cli.ui.table import format_ms, render_table
from paceline.demo.scene import ApiCounts, DemoOptions
from paceline.units import format_duration


def api_counts_table(rows: Sequence[tuple[StrategyResult, ApiCounts]], options: DemoOptions) -> str:
    """A line for each strategy: what the API counted meanwhile."""
    headings = (
        "what the API saw",
        "accepted",
        "refused",
        f"most in {format_duration(options.per_s)}",
        "in flight",
        "a second",
    )
    cells = [
        (
            row.strategy.value,
            str(counts.accepted),
            str(counts.refused),
            str(counts.max_in_window),
            str(counts.max_in_flight),
            f"{counts.accepted_per_s:.1f}",
        )
        for row, counts in rows
    ]
    return render_table(headings, cells)


def conclusion(rows: Sequence[tuple[StrategyResult, ApiCounts]], options: DemoOptions) -> str:
    """Two sentences: what the classic forms did, and what `adaptive` did."""
    classic, (adaptive, counts) = rows[:-1], rows[-1]
    most_refused, _ = max(classic, key=lambda pair: pair[0].refusals)
    if most_refused.refusals:
        lost = options.n - success_count(most_refused)
        strategy, refusals = most_refused.strategy.value, most_refused.refusals
        first = f"{strategy} was refused {refusals} times and lost {lost} of {options.n} requests"
    else:
        first = "None of the classic forms was refused"
    lossless = [pair for pair in classic if not pair[0].refusals and success_count(pair[0]) == options.n]
    if lossless:
        slowest, slowest_counts = max(lossless, key=lambda pair: pair[0].elapsed_ms)
        first += (
            f"; {slowest.strategy.value} lost none and took {format_ms(slowest.elapsed_ms)}, "
            f"at {_share_of_limit(slowest_counts, options)} of the API's limit"
        )
    second = (
        f"adaptive got {success_count(adaptive)} of {options.n} in {format_ms(adaptive.elapsed_ms)}, "
        f"at {_share_of_limit(counts, options)} of the limit, and was refused {counts.refused} times."
    )
    return f"{fill(first + '.', 80)}\n{fill(second, 80)}"


def _share_of_limit(counts: ApiCounts, options: DemoOptions) -> str:
    return f"{100 * counts.accepted_per_s * options.per_s / options.limit:.1f} %"
