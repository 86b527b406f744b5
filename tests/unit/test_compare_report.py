from __future__ import annotations

from paceline.cli.ui.compare_report import latency_plot, results_table
from paceline.model import Strategy
from support.measured_strategies import measured

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
