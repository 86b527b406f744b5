"""The IETF's fields: RFC 9651's shapes, and what the drafts allow of them."""

from __future__ import annotations

import pytest

from paceline.rate.dialects import parse_rate_headers
from paceline.rate.rate_info import RateInfo, RateWindowInfo


def told(fields: dict[str, str], dialect: str = "auto") -> RateInfo | None:
    return parse_rate_headers(
        tuple(fields.items()), dialect, status=200, now_epoch_s=1_790_000_000.0, max_reset_s=86400.0 * 10
    )


def windows(fields: dict[str, str], dialect: str = "auto") -> tuple[RateWindowInfo, ...]:
    info = told(fields, dialect)
    return () if info is None else info.windows


def test_policy_and_counter_are_joined_by_their_name():
    fields = {
        "ratelimit-policy": '"burst";q=100;w=60,"daily";q=1000;w=86400',
        "ratelimit": '"daily";r=900;t=3000, "burst";r=50;t=30',
    }
    assert windows(fields) == (
        RateWindowInfo("daily", "requests", 1000, 900, 3000, 86400, whole_seconds=True),
        RateWindowInfo("burst", "requests", 100, 50, 30, 60, whole_seconds=True),
    )
    assert windows(fields, "cloudflare") == windows(fields)


def test_either_field_may_be_absent():
    assert windows({"ratelimit-policy": '"a";q=5'}) == (RateWindowInfo("a", limit=5),)
    assert windows({"ratelimit": '"a";r=5'}) == (RateWindowInfo("a", remaining=5),)


def test_policies_without_a_counter_are_kept():
    fields = {"ratelimit-policy": '"a";q=5;w=1,"b";q=9;w=60', "ratelimit": '"a";r=5;t=1'}
    assert [window.name for window in windows(fields)] == ["a", "b"]


def test_a_policy_may_count_bytes_or_concurrent_requests():
    fields = {"ratelimit-policy": '"size";q=65535;w=10;qu="content-bytes","many";q=10;qu="concurrent-requests"'}
    assert [window.unit for window in windows(fields)] == ["content-bytes", "concurrent-requests"]


def test_partitions_are_kept_apart():
    fields = {
        "ratelimit-policy": '"p";q=100;w=60;pk=:dHJpYWwxMjEzMjM=:,"p";q=7;w=60;pk=:YQ==:',
        "ratelimit": '"p";r=3;t=30;pk=:YQ==:',
    }
    first, second = windows(fields)
    assert (first.partition, first.limit, first.remaining) == ("YQ==", 7, 3)
    assert (second.partition, second.limit, second.remaining) == ("dHJpYWwxMjEzMjM=", 100, None)


def test_a_list_goes_on_over_several_fields():
    headers = (("ratelimit", '"a";r=1'), ("x", "y"), ("ratelimit", '"b";r=2'))
    info = parse_rate_headers(headers, status=200, now_epoch_s=0.0, max_reset_s=9.0)
    assert info is not None
    assert [window.name for window in info.windows] == ["a", "b"]


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ('"a b";r=5', "a b"),
        (r'"say \"hi\"";r=5', 'say "hi"'),
        (r'"back\\slash";r=5', "back\\slash"),
        ('"a";r=5;unknown', "a"),
        ('"a";r=5;unknown=?0;other=1.5;date=@1;word=tok/en;text="x";bytes=:YQ==:;show=%"f%c3%bc"', "a"),
        ('  "a";r=5  ', "a"),
        ('"a"; r=5', "a"),
        ('"a";r=9;r=5', "a"),
        ('"a";r=00005', "a"),
    ],
)
def test_what_structured_fields_allow_is_read(field: str, name: str):
    assert windows({"ratelimit": field}, "ietf") == (RateWindowInfo(name, remaining=5),)


@pytest.mark.parametrize(
    "field",
    [
        "",
        '"a"',
        '"a";r',
        '"a";r=',
        '"a";r=-1',
        '"a";r=1.5',
        '"a";r="5"',
        '"a";r=?1',
        '"a";r=5;t=-1',
        '"a";r=5;t=1.0',
        '"a";r=5;t=soon',
        '"a";r=1234567890123456',
        '"a";r=5,',
        ',"a";r=5',
        '"a";r=5,,"b";r=5',
        '"a";r=5 "b";r=5',
        '"a" ;r=5',
        '"a;r=5',
        r'"\x";r=5',
        '"\u00e9";r=5',
        '"a\tb";r=5',
        "'a';r=5",
        '"";r=5',
        "a;r=5",
        "5;r=5",
        "?1;r=5",
        ":YQ==:;r=5",
        '("a" "b");r=5',
        '"a";R=5',
        '"a";r=5;pk="not bytes"',
        '"a";r=5;pk=:YQ=',
        '"a";r=5;pk=:Y!:',
        '"a";r=5, "b";r=-1',
        '"a";r=\u0665',
        "x" * 5000,
        ",".join(f'"{n}";r=1' for n in range(33)),
        '"' + "n" * 129 + '";r=5',
    ],
)
def test_a_malformed_counter_is_ignored_as_a_whole(field: str):
    assert windows({"ratelimit": field}, "ietf") == ()
    policy = {"ratelimit-policy": '"a";q=9;w=3'}
    assert windows({"ratelimit": field} | policy, "ietf") == (RateWindowInfo("a", limit=9, per_s=3),)


@pytest.mark.parametrize(
    "field",
    [
        '"a"',
        '"a";w=5',
        '"a";q=-1',
        '"a";q=5;w=0',
        '"a";q=5;w=-1',
        '"a";q=5;w=1.5',
        '"a";q=5;qu=7',
        '"a";q=5;w',
        "a;q=5",
    ],
)
def test_a_malformed_policy_is_ignored_as_a_whole(field: str):
    assert windows({"ratelimit-policy": field, "ratelimit": '"a";r=2'}, "ietf") == (RateWindowInfo("a", remaining=2),)


def test_a_window_of_ages_has_no_length():
    assert windows({"ratelimit-policy": '"a";q=1;w=999999999999999'}) == (RateWindowInfo("a", limit=1),)


def test_draft_07_is_a_dictionary_and_joins_by_quota():
    fields = {"ratelimit": "limit=50, remaining=20, reset=5", "ratelimit-policy": "10;w=1, 50;w=60"}
    assert windows(fields) == (
        RateWindowInfo("default", "requests", 50, 20, 5, 60, whole_seconds=True),
        RateWindowInfo("10;w=1", limit=10, per_s=1),
    )
    alone = {"ratelimit": "limit=100, remaining=50, reset=5", "ratelimit-policy": "10;w=1, 50;w=60"}
    assert [window.name for window in windows(alone)] == ["default", "10;w=1", "50;w=60"]


def test_a_policy_shorter_than_the_reset_is_another_window():
    fields = {"ratelimit": "limit=10, remaining=5, reset=50", "ratelimit-policy": "10;w=1, 10;w=60"}
    assert windows(fields)[0].per_s == 60


@pytest.mark.parametrize(
    "field",
    ["limit=a", "limit=1.5", "limit=-1, remaining=1", "limit", "limit=1,", "limit=(1 2)", "other=1", "limit=1;"],
)
def test_a_malformed_dictionary_is_ignored(field: str):
    assert told({"ratelimit": field}, "draft07") is None


def test_drafts_to_06_have_a_field_a_value():
    fields = {
        "ratelimit-limit": "100",
        "ratelimit-remaining": "40",
        "ratelimit-reset": "7",
        "ratelimit-policy": '100;w=10;comment="sliding"',
    }
    assert windows(fields) == (RateWindowInfo("default", "requests", 100, 40, 7, 10, whole_seconds=True),)


def test_the_first_drafts_put_policies_behind_the_limit():
    assert windows({"ratelimit-limit": "10, 10;w=1, 50;w=60", "ratelimit-remaining": "9"}) == (
        RateWindowInfo("default", "requests", 10, 9, None, 1),
        RateWindowInfo("50;w=60", limit=50, per_s=60),
    )


@pytest.mark.parametrize("text", ["5,000", "60, 60", "10, ten", "10,", "10, 10;w=0", "ten, 10;w=1"])
def test_what_stands_behind_the_limit_must_be_policies(text: str):
    assert all(window.name != "default" for window in windows({"ratelimit-limit": text}))


def test_a_reset_in_the_old_fields_may_be_a_moment_after_all():
    assert windows({"ratelimit-reset": "1790000030"})[0].reset_after_s == 30


def test_a_negative_or_unreadable_value_in_the_old_fields_leaves_the_others():
    fields = {"ratelimit-limit": "100", "ratelimit-remaining": "-1", "ratelimit-reset": "soon"}
    assert windows(fields) == (RateWindowInfo("default", limit=100),)


def test_the_text_of_2023_names_its_policy_by_a_bare_word():
    policy = {"ratelimit-policy": "default;l=100;w=10"}
    assert windows({"ratelimit": "policy=default, remaining=50"} | policy) == (
        RateWindowInfo("default", "requests", 100, 50, None, 10),
    )
    assert windows({"ratelimit": "default;r=50;t=3"} | policy) == (
        RateWindowInfo("default", "requests", 100, 50, 3, 10, whole_seconds=True),
    )
