"""Durations and sizes are read as people write them, and nothing else passes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.units import (
    MAX_DURATION_S,
    format_duration,
    format_rounded_duration,
    format_seconds,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("250ms", 0.25),
        ("100ms", 0.1),
        ("30s", 30.0),
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
        ("0s", 0.0),
        (5, 5.0),
        (0.25, 0.25),
        (0, 0.0),
    ],
)
def test_a_duration_is_read(written, seconds):
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        *("", "s", "10", "10 s", " 10s", "10s\n", "-1s", "+1s", "1e3s", "1_0s", "٣s", "1h30m", "inf", "nan", "10S"),
        *(
            -1,
            -0.001,
            math.nan,
            math.inf,
            -math.inf,
            10**400,
            MAX_DURATION_S + 1,
            "367d",
            True,
            False,
            None,
            [],
            {},
            b"1s",
        ),
    ],
)
def test_what_is_no_duration_is_refused_with_a_fix(written):
    with pytest.raises(ValueError, match=r"^[^;]+; .*write"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("8MiB", 8 << 20),
        ("64KiB", 65536),
        ("10MB", 10_000_000),
        ("1.5KiB", 1536),
        ("7B", 7),
        ("1 GiB", 1 << 30),
        (0, 0),
    ],
)
def test_a_size_is_read(written, size):
    assert parse_size(written) == size


@pytest.mark.parametrize("written", ["", "8", "8mb", "8 megs", "-1B", "0.5B", "2048GiB", -1, 1.0, True, None, 1 << 41])
def test_what_is_no_size_is_refused_with_a_fix(written):
    with pytest.raises(ValueError, match=r"^[^;]+; .*write"):
        parse_size(written)


@given(st.integers(0, 31_000_000_000))
def test_a_written_duration_reads_back(milliseconds):
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(0, 1 << 40))
def test_a_written_size_reads_back(size):
    assert parse_size(format_size(size)) == size


def test_units_are_written_as_people_would():
    assert [format_duration(each) for each in (0.05, 0.25, 1, 90, 60, 900, 3600, 86400)] == [
        *("50ms", "250ms", "1s", "90s", "1m", "15m", "1h", "1d")
    ]
    assert [format_size(each) for each in (8 << 20, 10_000_000, 1536, 0)] == ["8MiB", "10MB", "1536B", "0B"]


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        *((0.0000421, "0.0421ms"), (0.00421, "4.21ms"), (0.0421, "42.1ms"), (0.421, "421ms"), (0.9994, "999ms")),
        *((0.9996, "1.00s"), (8.03, "8.03s"), (42.12, "42.1s"), (75, "75.0s"), (125, "125s")),
    ],
)
def test_a_measured_duration_has_three_digits(seconds: float, written: str):
    assert format_rounded_duration(seconds) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.4, "0s"), (42, "42s"), (59.6, "1m00s"), (190, "3m10s"), (3599.7, "1h00m"), (7500, "2h05m")],
)
def test_a_measured_duration_reads_like_a_clock_from_a_minute_on(seconds: float, written: str):
    assert format_rounded_duration(seconds, decimals=0, clock=True) == written


def test_what_is_shorter_than_a_minute_has_three_digits_or_the_decimals_asked_for():
    assert [format_rounded_duration(each, clock=True) for each in (0.25, 12.34, 60)] == ["250ms", "12.3s", "1m00s"]
    assert [format_rounded_duration(each, decimals=1, clock=True) for each in (0.04, 12.34, 90)] == [
        "0.0s",
        "12.3s",
        "1m30s",
    ]


def test_seconds_in_a_sentence_have_a_space_and_no_needless_digit():
    assert [format_seconds(each) for each in (10.0, 0.25, 2.5)] == ["10 s", "0.25 s", "2.5 s"]
    assert format_seconds(1.23456, 3) == "1.23 s"
