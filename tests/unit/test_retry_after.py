"""The wait an answer names, in every form, and nothing where it is unusable."""

from __future__ import annotations

import pytest

from paceline.model import Response
from paceline.resilience.retry_after import parse_retry_after
from support.virtual_clock import virtual_time

DATE = ("date", "Sun, 06 Nov 1994 08:49:37 GMT")


def named(*headers: tuple[str, str]) -> float | None:
    return parse_retry_after(Response(429, headers, b""))


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


@virtual_time
async def test_without_a_date_of_its_own_the_answer_is_reckoned_from_now():
    import time
    from email.utils import formatdate

    later = formatdate(time.time() + 60, usegmt=True)
    assert named(("retry-after", later)) == pytest.approx(60.0, abs=1.0)


def test_milliseconds_come_before_seconds():
    assert named(("retry-after", "9"), ("retry-after-ms", "250")) == 0.25
    assert named(("x-ms-retry-after-ms", "1500")) == 1.5
    assert named(("retry-after", "9"), ("retry-after-ms", "soon")) == 9.0


def test_without_the_header_there_is_no_wait():
    assert named(("x-other", "1")) is None
