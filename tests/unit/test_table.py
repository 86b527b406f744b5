from __future__ import annotations

import pytest

from paceline.cli.ui.table import format_ms, render_table

ROWS = [["github", "80/1m", "71"], ["", "5000/1h", "4,991"]]


def test_columns_are_as_wide_as_they_need_and_two_spaces_apart() -> None:
    assert render_table(["upstream", "rate", "left"], ROWS, left_aligned=(0, 1)).splitlines() == [
        "upstream  rate      left",
        "--------- -------- -----",
        "github    80/1m       71",
        "          5000/1h  4,991",
    ]


def test_a_gap_of_one_makes_a_wide_table_narrow() -> None:
    assert render_table(["upstream", "rate", "left"], ROWS, gap=1).splitlines()[-1] == "         5000/1h 4,991"


def test_cells_are_text_and_never_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLUMNS": "20", "FORCE_COLOR": "1", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    cell = "[red]" + "x" * 300 + ":smile:"
    assert render_table(["a"], [[cell]]).splitlines() == ["a", "-" * len(cell), cell]


def test_without_rows_the_headings_stay() -> None:
    assert render_table(["a", "b"], []).splitlines() == ["a  b", "-- -"]


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
