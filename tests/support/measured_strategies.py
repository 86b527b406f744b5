"""A comparison's result with given figures."""

from __future__ import annotations

from paceline.batch.compare import StrategyResult
from paceline.model import Strategy


def measured(
    strategy: Strategy, ok: int, refusals: int, p50_ms: float | None = 40.0, elapsed_ms: float = 4000
) -> StrategyResult:
    worse = (None, None) if p50_ms is None else (2 * p50_ms, 10 * p50_ms)
    outcomes = {"success": ok, "http_error": 200 - ok} if ok < 200 else {"success": ok}
    return StrategyResult(
        strategy=strategy,
        engine="aiohttp",
        elapsed_ms=elapsed_ms,
        throughput_per_s=ok / elapsed_ms * 1000,
        p50_ms=p50_ms,
        p95_ms=worse[0],
        p99_ms=worse[1],
        status_counts={"200": ok},
        outcomes=outcomes,
        refusals=refusals,
        attempts=200,
        retries=0,
    )
