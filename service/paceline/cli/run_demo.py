"""`paceline demo`: the scene from its start to the conclusion, printed as it happens."""

from __future__ import annotations

from contextlib import aclosing

import uvloop

from paceline.batch.compare import StrategyResult
from paceline.cli.ui.compare_report import latency_plot, results_table, success_count
from paceline.cli.ui.demo_report import api_counts_table, conclusion
from paceline.cli.ui.table import format_ms
from paceline.cli.usage_error import UsageError
from paceline.demo.scene import API_LATENCY, ApiCounts, ApiNotStarted, DemoOptions, measure_strategies, start_api
from paceline.units import format_duration


def run_demo(options: DemoOptions) -> int:
    """Run the scene and print it; the exit code is 0 when `adaptive` lost no request and was refused none.

    Raises:
        UsageError: the API cannot be started.
    """
    rows = uvloop.run(_run_strategies(options))
    measured = [row for row, _ in rows]
    print(
        f"\n{results_table(measured)}\n\n{latency_plot(measured)}\n\n"
        f"{api_counts_table(rows, options)}\n\n{conclusion(rows, options)}"
    )
    adaptive = measured[-1]
    return 0 if success_count(adaptive) == options.n and not adaptive.refusals else 1


async def _run_strategies(options: DemoOptions) -> list[tuple[StrategyResult, ApiCounts]]:
    rows: list[tuple[StrategyResult, ApiCounts]] = []
    try:
        async with start_api(options) as url, aclosing(measure_strategies(url, options)) as measured:
            window = f"{options.limit} requests in any {format_duration(options.per_s)}"
            print(
                f"an API of its own at {url}: {window}, else 429; each answer takes {API_LATENCY}\n"
                f"{options.n} requests under each strategy, one attempt each; the classic four do not know the limit"
            )
            async for row, counts in measured:
                rows.append((row, counts))
                print(f"  {row.strategy.value} done in {format_ms(row.elapsed_ms)}", flush=True)
    except ApiNotStarted:
        raise UsageError("the demo API did not start; what it says is above") from None
    return rows
