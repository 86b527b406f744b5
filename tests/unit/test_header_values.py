"""Numbers and dates of HTTP fields: strict, and never raising."""

from __future__ import annotations

import pytest

from paceline.header_values import find_control_character, match_token, number, parse_http_date

NOW = 1_790_000_000.0


def test_a_token_has_letters_digits_and_some_signs_and_nothing_else():
    assert match_token("X-Request_Id.v2!#$%&'*+^`|~")
    assert not any(map(match_token, ("", "a b", "a:b", 'a"b', "a/b", "a(b)", "\u00e9", "a\n")))


def test_the_tab_is_the_only_control_character_of_a_field_value():
    assert not find_control_character("a\tb \u00e9")
    assert all(find_control_character(f"a{character}b") for character in "\x00\r\n\x1f\x7f")


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("007", 7), (" 12\t", 12), ("0.249", 0.249), ("9" * 15, 1e15 - 1)]
)
def test_a_number_is_digits_and_at_most_one_point(text: str, value: float):
    assert number(text) == value


@pytest.mark.parametrize(
    "text", ["", "-1", "1_0", "\u0661", "\u00b2", "inf", "nan", "1e9", "9" * 16, "1.", ".1", "1 2"]
)
def test_anything_else_is_not(text: str):
    assert number(text) is None


@pytest.mark.parametrize(
    ("text", "epoch_s"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
        ("sun, 6 nov 1994 08:49:37 gmt", 784111777),
        ("Monday, 21-Sep-76 14:13:20 GMT", 3367923200),
    ],
)
def test_the_three_forms_of_a_date(text: str, epoch_s: float):
    assert parse_http_date(text, NOW) == epoch_s


def test_two_digits_of_a_year_over_fifty_years_ahead_are_of_the_century_before():
    near, far = (
        parse_http_date("Monday, 21-Sep-76 14:13:20 GMT", NOW),
        parse_http_date("Monday, 21-Sep-77 14:13:20 GMT", NOW),
    )
    assert near is not None
    assert far is not None
    assert far < NOW < near


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, \u0660\u0666 Nov 1994 08:49:37 GMT",
        "\u017fun, 06 Nov 1994 08:49:37 GMT",  # a long s, which folds to s
        "Sun, 06 Nov 1994 08:49:37 +0100",
        "Sun, 06 Nov 1994 08:49:37 GMT and more",
        "06 Nov 1994 08:49:37 GMT",
        "",
    ],
)
def test_what_is_no_date(text: str):
    assert parse_http_date(text, NOW) is None
