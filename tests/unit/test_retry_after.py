"""The wait that a response names, in every form, and none where it is unusable."""

from __future__ import annotations

import pytest

from paceline.retry_after import parse_retry_after

NOW = 1_790_000_000.0
DATE = ("date", "Sun, 06 Nov 1994 08:49:37 GMT")
IN_TEN_SECONDS = "Sun, 06 Nov 1994 08:49:47 GMT"


def named(*headers: tuple[str, str]) -> float | None:
    return parse_retry_after(headers, NOW)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0.0), ("7", 7.0), (" 120\t", 120.0), ("0.249", 0.249), ("007", 7.0)]
)
def test_a_number_of_seconds(text: str, seconds: float):
    assert named(("retry-after", text)) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        "1_000",
        "1e3",
        "inf",
        "nan",
        "1e309",
        "0x10",
        "١٢",
        "²",
        "1" * 20,
        ".5",
        "5.",
        "1,5",
        "1 2",
        "soon",
        "Sun, 06 Nov 1994",
        "Sun, 32 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 06 Nov 1994 25:49:37 GMT",
        "1994-11-06T08:49:47Z",
    ],
)
def test_what_no_grammar_allows_is_ignored(text: str):
    assert named(("retry-after", text), DATE) is None


@pytest.mark.parametrize(
    "text", ["Sun, 06 Nov 1994 08:49:47 GMT", "Sunday, 06-Nov-94 08:49:47 GMT", "Sun Nov  6 08:49:47 1994"]
)
def test_a_date_in_each_of_the_three_forms_is_reckoned_from_the_answers_own_date(text: str):
    assert named(("retry-after", text), DATE) == 10.0


def test_a_date_that_is_past_means_no_wait():
    assert named(("retry-after", "Sun, 06 Nov 1994 08:49:00 GMT"), DATE) == 0.0


@pytest.mark.parametrize("date", [None, "no date"])
def test_without_a_usable_date_of_its_own_the_response_is_reckoned_from_now(date: str | None):
    headers = (("retry-after", IN_TEN_SECONDS), *([("date", date)] if date else []))
    assert parse_retry_after(headers, 784111770.0) == 17.0
    assert parse_retry_after(headers, NOW) == 0.0


@pytest.mark.parametrize("text", ["99999999999", "999999999999999"])
def test_a_wait_of_centuries_is_a_slip_and_ignored(text: str):
    assert named(("retry-after", text)) is None


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (("2", "2"), 2.0),
        (("1", "7", "3"), 7.0),
        (("9", "soon"), 9.0),
        (("soon", "9"), 9.0),
        (("3", IN_TEN_SECONDS), 10.0),
    ],
)
def test_of_a_repeated_field_the_longest_usable_wait_counts(values: tuple[str, ...], seconds: float):
    assert named(DATE, *(("retry-after", value) for value in values)) == seconds


def test_of_repeated_milliseconds_the_longest_counts_whatever_their_name():
    assert named(("retry-after-ms", "250"), ("retry-after-ms", "100"), ("x-ms-retry-after-ms", "400")) == 0.4
    assert named(("x-ms-retry-after-ms", "soon"), ("retry-after-ms", "100")) == 0.1


def test_milliseconds_come_before_seconds():
    assert named(("retry-after", "9"), ("retry-after-ms", "250")) == 0.25
    assert named(("x-ms-retry-after-ms", "1500")) == 1.5
    assert named(("retry-after", "9"), ("retry-after-ms", "soon")) == 9.0


def test_without_the_header_there_is_no_wait():
    assert named(("x-other", "1")) is None
