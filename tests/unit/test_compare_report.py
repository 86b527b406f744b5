from __future__ import annotations

import pytest

from paceline.batch.compare import StrategyResult
from paceline.cli.ui.compare_report import format_ms, latency_plot, results_table
from paceline.demo.scene import ApiCounts, DemoOptions, conclusion
from paceline.model import Strategy

WHAT = DemoOptions(n=200, limit=50, per_s=1.0)


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


ROWS = [measured(strategy, 200, 0, p50_ms=10.0**place) for place, strategy in enumerate(Strategy)]


def test_table_and_plot_fit_eighty_columns_and_hold_no_escapes() -> None:
    text = results_table(ROWS) + "\n" + latency_plot(ROWS)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    for strategy in Strategy:
        assert text.count(strategy.value) == 2


def test_a_longer_latency_has_a_longer_bar_and_a_scale_below_it() -> None:
    _, *bars, scale = latency_plot(ROWS).splitlines()
    solid = [bar.count("█") for bar in bars]
    assert solid == sorted(solid)
    assert len(set(solid)) == len(solid)
    assert "|1s" in scale
    for bar in bars:
        assert bar.count("▓") > 0
        assert bar.count("░") > 0


def test_a_bar_ends_above_its_own_mark_on_the_scale() -> None:
    _, bar, scale = latency_plot([measured(Strategy.BOUNDED, 200, 0, p50_ms=100.0)]).splitlines()
    assert bar.rindex("█") + 1 == scale.index("|100ms")


def test_a_strategy_under_which_nothing_succeeded_is_said_so() -> None:
    rows = [measured(Strategy.CONCURRENT, 0, 200, p50_ms=None), measured(Strategy.ADAPTIVE, 200, 0)]
    assert "none succeeded" in latency_plot(rows)
    assert "no request succeeded" in latency_plot(rows[:1])
    assert " - " in results_table(rows)


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (0.5, "0.5ms"),
        (4.213, "4.21ms"),
        (99.7, "99.7ms"),
        (132.6, "133ms"),
        (999.6, "1.00s"),
        (8030, "8.03s"),
        (None, "-"),
    ],
)
def test_durations_have_three_digits(milliseconds: float | None, said: str) -> None:
    assert format_ms(milliseconds) == said


def test_the_conclusion_is_computed_from_the_figures() -> None:
    rows = [
        (measured(Strategy.SEQUENTIAL, 200, 0, elapsed_ms=8000), ApiCounts(200, 0, 25, 1, 25.0)),
        (measured(Strategy.CONCURRENT, 50, 150), ApiCounts(50, 150, 50, 200, 900.0)),
        (measured(Strategy.ADAPTIVE, 200, 0), ApiCounts(200, 0, 50, 3, 49.0)),
    ]
    said = " ".join(conclusion(rows, WHAT).split())
    assert "concurrent was refused 150 times and lost 150 of 200" in said
    assert "sequential lost none and took 8.00s, at 50.0 % of the API's limit" in said
    assert "adaptive got 200 of 200 in 4.00s, at 98.0 % of the limit, and was refused 0 times" in said


def test_the_conclusion_flatters_nobody() -> None:
    rows = [
        (measured(Strategy.CONCURRENT, 200, 0), ApiCounts(200, 0, 50, 200, 50.0)),
        (measured(Strategy.ADAPTIVE, 150, 70), ApiCounts(150, 70, 50, 3, 30.0)),
    ]
    said = " ".join(conclusion(rows, WHAT).split())
    assert "None of the classic forms was refused" in said
    assert "adaptive got 150 of 200" in said
    assert "was refused 70 times" in said
