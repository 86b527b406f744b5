"""Durations and sizes are read as people write them, and nothing else passes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.units import MAX_DURATION_S, format_duration, format_size, parse_duration, parse_size


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
