"""A comparison on the screen: a table and a plot of latency, both readable at 80 columns and in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10

from paceline.batch.compare import StrategyResult
from paceline.cli.ui.table import format_ms, render_table
from paceline.model import OutcomeKind
from paceline.units import format_duration

_WIDTH = 80
_P50_FILL, _P95_FILL, _P99_FILL = "█", "▓", "░"


def results_table(rows: Sequence[StrategyResult]) -> str:
    """A line for each strategy: how long, how fast, and what became of the requests."""
    headings = ("strategy", "elapsed", "ok/s", "p50", "p95", "p99", "ok", "failed", "refused", "retries")
    cells = [
        (
            label,
            format_ms(row.elapsed_ms),
            f"{row.throughput_per_s:.1f}",
            *map(format_ms, (row.p50_ms, row.p95_ms, row.p99_ms)),
            *(str(number) for number in (success_count(row), failure_count(row), row.refusals, row.retries)),
        )
        for row, label in zip(rows, row_labels(rows), strict=True)
    ]
    return render_table(headings, cells, gap=1)


def latency_plot(rows: Sequence[StrategyResult], width: int = _WIDTH) -> str:
    """For each strategy a bar over a logarithmic scale, to p50, p95 and p99; all bars have the same scale."""
    measured = [value for row in rows for value in (row.p50_ms, row.p99_ms) if value is not None]
    if not measured:
        return "no request succeeded: there is no latency to plot"
    names = row_labels(rows)
    margin = max(map(len, names)) + 2
    length = max(20, width - margin - 1)
    low = 10.0 ** floor(log10(max(0.001, min(measured)) * 0.999))
    high = max(max(measured), low * 10)

    def column(value_ms: float) -> int:
        return max(1, round(length * log10(max(value_ms, low) / low) / log10(high / low)))

    lines = [
        f"latency, from the batch's start to a request's success   {_P50_FILL} p50  {_P95_FILL} p95  {_P99_FILL} p99"
    ]
    for row, name in zip(rows, names, strict=True):
        if row.p50_ms is None or row.p95_ms is None or row.p99_ms is None:
            lines.append(f"{name.ljust(margin)}none succeeded")
            continue
        p50, p95, p99 = column(row.p50_ms), column(row.p95_ms), column(row.p99_ms)
        bar = _P50_FILL * p50 + _P95_FILL * (p95 - p50) + _P99_FILL * (p99 - p95)
        lines.append(name.ljust(margin) + bar)
    axis = [" "] * (margin + length + 8)
    tick_ms = low
    while tick_ms <= high:
        tick_column = margin + round(length * log10(tick_ms / low) / log10(high / low))
        axis[tick_column : tick_column + 8] = f"|{format_duration(tick_ms / 1000)}".ljust(8)
        tick_ms *= 10
    return "\n".join([*lines, "".join(axis)[:width].rstrip()])


def success_count(row: StrategyResult) -> int:
    """Requests that got what they asked for."""
    return row.outcomes.get(OutcomeKind.SUCCESS.value, 0)


def failure_count(row: StrategyResult) -> int:
    """Every other one."""
    return sum(row.outcomes.values()) - success_count(row)


def row_labels(rows: Sequence[StrategyResult]) -> list[str]:
    """Each row's strategy, with its engine where there are several."""
    if len({row.engine for row in rows}) > 1:
        return [f"{row.strategy.value} {row.engine}" for row in rows]
    return [row.strategy.value for row in rows]
