from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paceline.cli.flag_parsing import batch_from_flags, parse_rate_flag, read_api_key
from paceline.cli.usage_error import UsageError
from paceline.model import Rate, Strategy
from paceline.units import MAX_DURATION_S


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("50/1s", Rate(50, 1.0, 50)),
        ("50/s", Rate(50, 1.0, 50)),
        ("100/m", Rate(100, 60.0, 100)),
        ("5000/1h", Rate(5000, 3600.0, 5000)),
        ("2.5/250ms", Rate(2.5, 0.25, 2.5)),
    ],
)
def test_a_rate_is_read_as_people_write_it(text: str, rate: Rate) -> None:
    assert parse_rate_flag(text) == rate


def test_a_burst_belongs_to_its_rate() -> None:
    assert parse_rate_flag("50/1s", 5) == Rate(50, 1.0, 5)


@pytest.mark.parametrize(
    "text", ["50", "50/", "/1s", "-1/1s", "nan/1s", "0/1s", "50/0s", "50/1y", "50/1s/1s", "50/0.5ms"]
)
def test_what_is_no_rate_is_refused_by_its_flag(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--rate: "):
        parse_rate_flag(text)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"strategy": Strategy.CONCURRENT, "max_concurrency": 3}, "--max-concurrency"),
        ({"strategy": Strategy.BOUNDED, "rate": "5/1s"}, "--rate"),
        ({"strategy": Strategy.TOKEN_BUCKET}, "--rate"),
        ({"burst": 3.0}, "--burst"),
        ({"rate": "5/1s", "burst": 6.0}, "--burst"),
        ({"rate": "5/1s", "burst": float("nan")}, "--burst"),
        ({"deadline": "soon"}, "--deadline"),
        ({"deadline": "0s"}, "--deadline"),
    ],
)
def test_a_flag_that_means_nothing_is_refused_by_name(flags: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=f"^{named}: "):
        batch_from_flags(**flags)


def test_a_run_has_no_deadline_unless_given() -> None:
    assert batch_from_flags().deadline_s == MAX_DURATION_S
    assert batch_from_flags(deadline="90").deadline_s == 90
    assert batch_from_flags(deadline="2m").deadline_s == 120


def test_a_key_comes_from_the_variable_or_file_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-a-file\n")
    assert read_api_key(None, file, {}) == "from-a-file"
    assert read_api_key("MINE", None, {"MINE": "from-mine"}) == "from-mine"
    assert read_api_key(None, None, {"PACELINE_KEY": "the-usual"}) == "the-usual"
    assert read_api_key(None, None, {}) is None


def test_a_key_given_in_place_of_its_variable_is_not_repeated() -> None:
    with pytest.raises(UsageError) as told:
        read_api_key("the-secret-itself", None, {})
    assert "the-secret-itself" not in str(told.value)


@pytest.mark.parametrize("held", ["", "two words", "line\nbreak", "naïve"])
def test_what_is_no_key_is_refused_and_not_repeated(held: str) -> None:
    with pytest.raises(UsageError) as told:
        read_api_key("MINE", None, {"MINE": held})
    assert not held or held not in str(told.value)
