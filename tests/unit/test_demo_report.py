"""The demo's conclusion."""

from __future__ import annotations

from paceline.cli.ui.demo_report import conclusion
from paceline.demo.scene import ApiCounts, DemoOptions
from paceline.model import Strategy
from support.measured_strategies import measured

WHAT = DemoOptions(n=200, limit=50, per_s=1.0)


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
