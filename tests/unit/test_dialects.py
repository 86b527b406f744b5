"""What each upstream sends, and what is read of it; one row of the table a test."""

from __future__ import annotations

import pytest

from paceline.rate.dialects import DIALECT_NAMES, parse_rate_headers
from paceline.rate.rate_info import RateInfo, RateWindowInfo
from paceline.retry_after import parse_retry_after

NOW = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT
DATE = "Mon, 21 Sep 2026 14:13:20 GMT"
LONG_S = 10 * 86400.0


def told(
    fields: dict[str, str], dialect: str = "auto", *, status: int = 200, most_s: float = LONG_S, body: bytes = b""
) -> RateInfo | None:
    headers = (("content-type", "application/json"), ("date", DATE), *fields.items())
    return parse_rate_headers(
        headers,
        dialect,
        status=status,
        now_epoch_s=NOW,
        max_reset_s=most_s,
        retry_after_s=parse_retry_after(headers, NOW),
        body=body,
    )


def windows(fields: dict[str, str], dialect: str = "auto", **more: float) -> dict[str, RateWindowInfo]:
    info = told(fields, dialect, **more)
    assert info is not None
    return {window.name: window for window in info.windows}


def window(fields: dict[str, str], dialect: str = "auto") -> RateWindowInfo:
    (only,) = windows(fields, dialect).values()
    return only


GITHUB = {
    "x-ratelimit-limit": "5000",
    "x-ratelimit-remaining": "4999",
    "x-ratelimit-used": "1",
    "x-ratelimit-reset": "1790003599",
    "x-ratelimit-resource": "core",
}
OPENAI = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-reset-tokens": "6m0s",
}
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "49",
    "anthropic-ratelimit-requests-reset": "2026-09-21T14:13:21Z",
    "anthropic-ratelimit-input-tokens-limit": "30000",
    "anthropic-ratelimit-input-tokens-remaining": "29000",
    "anthropic-ratelimit-input-tokens-reset": "2026-09-21T16:13:22.5+02:00",
    "anthropic-ratelimit-unified-reset": "1790000600",
}
HUBSPOT = {
    "x-hubspot-ratelimit-daily": "250000",
    "x-hubspot-ratelimit-daily-remaining": "249000",
    "x-hubspot-ratelimit-interval-milliseconds": "10000",
    "x-hubspot-ratelimit-max": "100",
    "x-hubspot-ratelimit-remaining": "98",
    "x-hubspot-ratelimit-secondly": "10",
    "x-hubspot-ratelimit-secondly-remaining": "9",
}
DISCORD = {
    "x-ratelimit-limit": "5",
    "x-ratelimit-remaining": "0",
    "x-ratelimit-reset": "1790000001.250",
    "x-ratelimit-reset-after": "1.25",
    "x-ratelimit-bucket": "abcd1234",
    "x-ratelimit-scope": "user",
}
JIRA = {
    "x-ratelimit-limit": "350",
    "x-ratelimit-remaining": "0",
    "x-ratelimit-reset": "2026-09-21T14:15Z",
    "x-ratelimit-nearlimit": "true",
    "ratelimit-reason": "jira-burst-based",
}
REDDIT = {"x-ratelimit-used": "5", "x-ratelimit-remaining": "594.5", "x-ratelimit-reset": "300"}


def test_github_tells_its_resource_and_a_reset_in_epoch_seconds():
    assert window(GITHUB) == RateWindowInfo("core", "requests", 5000, 4999, 3599, 3600, whole_seconds=True)
    graphql = window(GITHUB | {"x-ratelimit-resource": "graphql"})
    assert (graphql.unit, graphql.per_s) == ("points", 3600)
    assert window(GITHUB | {"x-ratelimit-resource": "search"}).per_s == 60
    assert window(GITHUB | {"x-ratelimit-resource": "something_new"}).per_s is None


def test_github_counts_what_was_used_where_the_rest_is_missing():
    fields = {name: value for name, value in GITHUB.items() if name != "x-ratelimit-remaining"}
    assert window(fields, "github").remaining == 4999


def test_openai_resets_are_go_durations_until_the_bucket_is_full():
    read_windows = windows(OPENAI)
    assert read_windows["requests"] == RateWindowInfo("requests", "requests", 60, 59, 1, 60, refills=True)
    assert read_windows["tokens"].unit == "tokens"
    assert read_windows["tokens"].reset_after_s == 360


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "per_s"),
    [
        ("3500", "3499", "17ms", 60),
        ("10000", "9999", "8.64s", 86400),
        ("60", "60", "0s", None),
        ("60", "59", "7s", None),
    ],
)
def test_openai_windows_are_as_long_as_their_refill_says(
    limit: str, remaining: str, reset: str, per_s: float | None
) -> None:
    fields = {
        "x-ratelimit-limit-requests": limit,
        "x-ratelimit-remaining-requests": remaining,
        "x-ratelimit-reset-requests": reset,
    }
    assert window(fields, "openai").per_s == per_s


def test_groq_counts_requests_a_day_and_tokens_a_minute():
    fields = OPENAI | {"x-ratelimit-reset-requests": "2m59.56s", "x-ratelimit-reset-tokens": "7.66s"}
    read_windows = windows(fields, "groq")
    assert (read_windows["requests"].per_s, read_windows["tokens"].per_s) == (86400, 60)
    assert read_windows["requests"].reset_after_s == pytest.approx(179.56)
    assert read_windows["tokens"].reset_after_s == pytest.approx(7.66)


def test_azure_resets_are_seconds_and_its_negatives_are_unknown():
    fields = {
        "x-ms-region": "North Central US",
        "x-ratelimit-limit-tokens": "-1",
        "x-ratelimit-remaining-tokens": "-1",
        "x-ratelimit-reset-tokens": "0",
        "x-ratelimit-remaining-requests": "79",
        "x-ratelimit-reset-requests": "-1",
    }
    assert windows(fields) == {
        "tokens": RateWindowInfo("tokens", "tokens", reset_after_s=0, whole_seconds=True),
        "requests": RateWindowInfo("requests", "requests", remaining=79),
    }


def test_anthropic_resets_are_rfc_3339_but_for_the_unified_one():
    read_windows = windows(ANTHROPIC)
    assert read_windows["requests"] == RateWindowInfo(
        "requests", "requests", 50, 49, 1, 60, whole_seconds=True, refills=True
    )
    assert read_windows["input-tokens"].reset_after_s == 2.5
    assert not read_windows["input-tokens"].whole_seconds
    assert read_windows["unified"].reset_after_s == 600


def test_shopify_tells_what_was_used_and_leaks():
    leaking = window({"x-shopify-shop-api-call-limit": "32/40"})
    assert leaking == RateWindowInfo("default", "requests", 40, 8, 16, 20, refills=True)
    assert window({"x-shopify-shop-api-call-limit": "41/40"}).remaining == 0


@pytest.mark.parametrize("text", ["32", "/", "-1/40", "32/0", "32/40/50", "a/b", ""])
def test_shopify_malformed_is_nothing(text: str):
    assert told({"x-shopify-shop-api-call-limit": text}) is None


def test_x_has_one_hyphen_more_and_epoch_seconds():
    fields = {"x-rate-limit-limit": "900", "x-rate-limit-remaining": "899", "x-rate-limit-reset": "1790000900"}
    expected = RateWindowInfo("default", "requests", 900, 899, 900, whole_seconds=True)
    assert window(fields, "x") == expected
    assert window(fields) == expected


def test_hubspot_has_three_windows():
    assert windows(HUBSPOT) == {
        "interval": RateWindowInfo("interval", "requests", 100, 98, per_s=10),
        "secondly": RateWindowInfo("secondly", "requests", 10, 9, per_s=1),
        "daily": RateWindowInfo("daily", "requests", 250000, 249000, per_s=86400),
    }


def test_hubspot_without_daily_as_oauth_calls_are():
    fields = {name: value for name, value in HUBSPOT.items() if "daily" not in name}
    assert set(windows(fields)) == {"interval", "secondly"}


def test_discord_budgets_are_told_by_their_bucket():
    info = told(DISCORD, status=429)
    assert info is not None
    assert info.windows == (RateWindowInfo("abcd1234", "requests", 5, 0, 1.25),)
    assert (info.bucket, info.scope, info.retry_after_s) == ("abcd1234", "user", 1.25)
    everywhere = told({"x-ratelimit-global": "true", "retry-after": "65"}, status=429)
    assert everywhere is not None
    assert (everywhere.dialect, everywhere.scope, everywhere.retry_after_s) == ("discord", "global", 65)


def test_discord_without_reset_after_counts_from_the_decimal_epoch():
    fields = {name: value for name, value in DISCORD.items() if name != "x-ratelimit-reset-after"}
    assert window(fields).reset_after_s == 1.25


def test_reddit_is_told_by_what_it_lacks():
    info = told(REDDIT)
    assert info is not None
    assert info.dialect == "reddit"
    assert info.windows == (RateWindowInfo("default", "requests", 599.5, 594.5, 300, whole_seconds=True),)


def test_jira_resets_to_the_minute_and_gives_its_reason():
    info = told(JIRA, status=429)
    assert info is not None
    assert info.windows == (RateWindowInfo("default", "requests", 350, 0, 100, whole_seconds=True),)
    assert (info.dialect, info.reason, info.near_limit, info.retry_after_s) == ("jira", "jira-burst-based", True, 100)


def test_stripe_slack_and_graph_have_a_wait_and_no_windows():
    stripe = told({"stripe-rate-limited-reason": "global-concurrency", "retry-after": "1"}, status=429)
    assert stripe == RateInfo("stripe", 1, reason="global-concurrency")
    assert told({"retry-after": "30"}, "slack", status=429) == RateInfo("slack", 30)
    assert told({"retry-after": "0.249"}, "graph", status=429) == RateInfo("graph", 0.249)


@pytest.mark.parametrize(
    ("fields", "reset_s", "whole"),
    [
        ({"x-ratelimit-reset": "Mon Sep 21 2026 15:13:42 GMT+0100"}, 22, True),  # lemlist
        ({"x-ratelimit-reset": "Mon Sep 21 2026 15:13:42 GMT+0100 (British Summer Time)"}, 22, True),
        ({"x-ratelimit-reset": "42"}, 42, True),  # Lago
        ({"x-ratelimit-reset": "2026-09-21 14:13:50 UTC"}, 30, True),  # Gusto
        ({"x-ratelimit-reset": "2026-09-21T14:13:50"}, 30, True),
        ({"x-ratelimit-reset": "2026-09-21T09:13:50.25-0500"}, 30.25, False),
        ({"x-ratelimit-reset": "Mon, 21 Sep 2026 14:13:50 GMT"}, 30, True),
        ({"x-ratelimit-reset": "1790000030000"}, 30, False),
        ({"x-ratelimit-reset": "1790000030.5"}, 30.5, False),
        ({"x-ratelimit-reset": "1789999990"}, 0, True),
        ({"x-ratelimit-reset": "1m30s"}, 90, False),
        ({"x-rate-limit-reset": "30"}, 30, True),
    ],
)
def test_a_reset_is_read_in_every_form(fields: dict[str, str], reset_s: float, whole: bool):
    only = window(fields)
    assert only.reset_after_s == pytest.approx(reset_s)
    assert only.whole_seconds is whole


def test_prisjakt_waits_are_milliseconds():
    fields = {"x-rate-limit-limit": "10", "x-rate-limit-remaining": "0", "x-rate-limit-reset": "1500"}
    assert window(fields, "prisjakt").reset_after_s == 1.5


def test_mailerlite_names_its_wait_in_a_field_of_its_own():
    fields = {"x-ratelimit-limit": "120", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "40"}
    fields["x-ratelimit-retry-after"] = "17"
    info = told(fields, status=429)
    assert info is not None
    assert (info.dialect, info.retry_after_s) == ("generic", 17)


@pytest.mark.parametrize(
    "text", ["-1", "", "soon", "12:", "2026-13-01T00:00Z", "2026-02-30T00:00Z", "Xxx, 99 Foo 2026", "1h-", "5 s"]
)
def test_a_reset_that_cannot_be_read_is_as_if_it_were_not_there(text: str):
    assert window({"x-ratelimit-limit": "10", "x-ratelimit-reset": text}).reset_after_s is None


NOT_NUMBERS = [
    "1_000",
    "\u0661\u0662",  # Arabic-Indic digits
    "\u00b2",  # a superscript
    "inf",
    "nan",
    "Infinity",
    "1e309",
    "1e3",
    "12345678901234567890",
    "+5",
    "-5",
    "0x10",
    "5,000",
    "1.",
    ".5",
    "1.2.3",
    "5\n",
    " ",
]


@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_what_python_takes_for_a_number_is_not_one(text: str):
    fields = {
        "x-ratelimit-limit": text,
        "x-ratelimit-remaining": text,
        "x-ratelimit-reset": text,
        "retry-after": text,
        "retry-after-ms": text,
    }
    assert told(fields, status=429) is None
    assert told({"ratelimit-limit": text, "ratelimit-remaining": text, "ratelimit-reset": text}) is None


# Rules that hold in every dialect


def test_milliseconds_come_before_retry_after_and_that_before_any_reset():
    reset = {"ratelimit": '"a";r=0;t=9'}
    every = {"retry-after-ms": "1500", "retry-after": "7"} | reset
    for fields, wait_s in (
        (every, 1.5),
        (every | {"retry-after-ms": "-1"}, 7),
        (every | {"retry-after-ms": "x", "retry-after": "-2"}, 9),
        ({"x-ms-retry-after-ms": "250"} | reset, 0.25),
    ):
        info = told(fields, status=429)
        assert info is not None
        assert info.retry_after_s == wait_s


def test_an_ietf_reset_comes_before_a_vendors():
    info = told(
        {"ratelimit": '"a";r=0;t=9', "x-ratelimit-remaining": "0", "x-ratelimit-reset": "40", "x-ratelimit-limit": "5"},
        status=429,
    )
    assert info is not None
    assert (info.dialect, info.retry_after_s) == ("ietf", 9)


@pytest.mark.parametrize(
    "text", ["Mon, 21 Sep 2026 14:13:50 GMT", "Monday, 21-Sep-26 14:13:50 GMT", "Mon Sep 21 14:13:50 2026"]
)
def test_retry_after_takes_the_three_forms_of_a_date(text: str):
    assert told({"retry-after": text}, status=503) == RateInfo("rfc9110", 30)


def test_moments_are_reckoned_from_the_answers_own_date():
    late = (("date", "Mon, 21 Sep 2026 15:13:20 GMT"), ("x-ratelimit-reset", "1790003605"))
    info = parse_rate_headers(late, status=200, now_epoch_s=NOW, max_reset_s=LONG_S)
    assert info is not None
    assert info.windows[0].reset_after_s == 5
    undated = parse_rate_headers(late[1:], status=200, now_epoch_s=NOW, max_reset_s=LONG_S)
    assert undated is not None
    assert undated.windows[0].reset_after_s == 3605
    broken = parse_rate_headers((("date", "yesterday"), late[1]), status=200, now_epoch_s=NOW, max_reset_s=LONG_S)
    assert broken == undated


def test_a_long_reset_is_cut_and_says_so():
    info = told(GITHUB | {"x-ratelimit-reset": "999999999999999"}, most_s=900)
    assert info is not None
    assert (info.windows[0].reset_after_s, info.clamped) == (900, True)
    info = told({"retry-after": "86400"}, status=503, most_s=900)
    assert info == RateInfo("rfc9110", 900, clamped=True)
    info = told({"ratelimit": '"a";r=0;t=999999999999999'}, status=429, most_s=900)
    assert info is not None
    assert (info.windows[0].reset_after_s, info.retry_after_s, info.clamped) == (900, 900, True)
    short = told(GITHUB)
    assert short is not None
    assert not short.clamped


@pytest.mark.parametrize(("age", "tells"), [("1", False), ("3600", False), ("0", True), ("-1", True), ("old", True)])
def test_an_answer_out_of_a_cache_tells_nothing(age: str, tells: bool):
    assert (told(GITHUB | {"age": age}) is not None) is tells


def test_a_wait_belongs_to_a_refusal_only():
    assert told({"retry-after": "5"}, status=202) is None
    assert told({"retry-after": "5"}, status=302) is None
    for status in (403, 429, 500, 503):
        assert told({"retry-after": "5"}, status=status) == RateInfo("rfc9110", 5)


@pytest.mark.parametrize(
    ("status", "remaining", "wait_s"), [(403, "0", 3599), (403, "17", None), (503, "0", 3599), (404, "0", None)]
)
def test_a_403_with_nothing_remaining_is_a_rate_limit(status: int, remaining: str, wait_s: float | None):
    info = told(GITHUB | {"x-ratelimit-remaining": remaining}, status=status)
    assert info is not None
    assert info.retry_after_s == wait_s


def test_githubs_unnamed_429_waits_a_minute_and_not_for_the_hour():
    info = told(GITHUB, status=429)
    assert info is not None
    assert info.retry_after_s == 60


def test_a_429_that_only_tells_a_reset_means_that_one():
    info = told({"x-ratelimit-reset": "12"}, status=429)
    assert info is not None
    assert info.retry_after_s == 12
    assert info.windows[0].remaining is None


def test_the_time_until_a_bucket_is_full_is_no_time_to_wait():
    empty = OPENAI | {"x-ratelimit-remaining-requests": "0"}
    info = told(empty, status=429)
    assert info is not None
    assert info.retry_after_s is None


def test_the_longest_of_the_exhausted_windows_is_the_wait():
    info = told({"ratelimit": '"second";r=0;t=1,"hour";r=0;t=1800,"day";r=5;t=9000'}, status=429)
    assert info is not None
    assert info.retry_after_s == 1800


def test_a_limit_of_nothing_is_no_limit():
    info = told({"x-ratelimit-limit": "0", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "5"}, status=429)
    assert info is not None
    assert (info.windows[0].limit, info.retry_after_s) == (None, 5)


def test_the_first_of_a_repeated_field_counts():
    headers = (("x-ratelimit-limit", "5"), ("x-ratelimit-limit", "9"))
    info = parse_rate_headers(headers, status=200, now_epoch_s=NOW, max_reset_s=LONG_S)
    assert info is not None
    assert info.windows[0].limit == 5


def test_names_are_kept_only_where_they_are_plain_short_words():
    for hostile in ("a b", "x" * 65, "<script>", "\u00e9", ""):
        assert window(GITHUB | {"x-ratelimit-resource": hostile}).name == "default"


def test_a_dialect_reads_its_own_names_only():
    assert told(GITHUB, "openai") is None
    assert told(OPENAI, "github") is None
    assert told(GITHUB, "x") is None


@pytest.mark.parametrize("dialect", DIALECT_NAMES)
def test_an_answer_without_rate_headers_tells_nothing(dialect: str):
    assert told({}, dialect, status=200) is None
    assert told({}, dialect, status=429) is None


@pytest.mark.parametrize("dialect", DIALECT_NAMES)
def test_every_dialect_reads_retry_after(dialect: str):
    info = told({"retry-after": "3"}, dialect, status=429)
    assert info is not None
    assert info.retry_after_s == 3


@pytest.mark.parametrize(
    ("fields", "dialect"),
    [
        (GITHUB, "github"),
        (OPENAI, "openai"),
        (OPENAI | {"x-groq-region": "us-east"}, "groq"),
        (OPENAI | {"apim-request-id": "1"}, "azure"),
        (ANTHROPIC, "anthropic"),
        ({"x-shopify-shop-api-call-limit": "1/40"}, "shopify"),
        (HUBSPOT, "hubspot"),
        (DISCORD, "discord"),
        (JIRA, "jira"),
        (REDDIT, "reddit"),
        ({"x-ratelimit-limit": "1"}, "generic"),
        ({"x-rate-limit-limit": "1"}, "generic"),
        ({"ratelimit": '"a";r=1'}, "ietf"),
        ({"ratelimit-policy": '"a";q=1'}, "ietf"),
        ({"ratelimit": "limit=1, remaining=1, reset=1"}, "draft07"),
        ({"ratelimit-limit": "1"}, "draft06"),
        ({"ratelimit-policy": "10;w=1"}, "draft06"),
        ({"ratelimit": "policy=default, remaining=50"}, "interim2023"),
        ({"ratelimit": "default;r=50;t=30"}, "interim2023"),
        ({"ratelimit-policy": "default;l=100;w=10"}, "interim2023"),
        # What is malformed does not hide what is not.
        ({"ratelimit": '"a";r=-1'} | GITHUB, "github"),
        ({"x-shopify-shop-api-call-limit": "?", "x-ratelimit-limit": "1"}, "generic"),
    ],
)
def test_the_names_seen_tell_the_dialect(fields: dict[str, str], dialect: str):
    info = told(fields)
    assert info is not None
    assert info.dialect == dialect


def test_a_problem_type_names_the_policies_that_refused():
    body = (
        b'{"type": "https://iana.org/assignments/http-problem-types#quota-exceeded", "title": "no",'
        b' "violated-policies": ["daily"]}'
    )
    info = told({"ratelimit": '"burst";r=5;t=1,"daily";r=3;t=900'}, status=429, body=body)
    assert info is not None
    assert (info.reason, info.violated, info.retry_after_s) == ("quota-exceeded", ("daily",), 900)


def test_hubspots_policy_name_is_the_reason():
    info = told(HUBSPOT, status=429, body=b'{"status": "error", "policyName": "TEN_SECONDLY_ROLLING"}')
    assert info is not None
    assert info.reason == "TEN_SECONDLY_ROLLING"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"type": 5}',
        b'{"type": "about:blank"}',
        b'{"policyName": "anything at all"}',
        b'{"violated-policies": "daily"}',
        b'{"a":' * 3000,
        b"\xff\xfe{",
    ],
)
def test_any_other_body_says_nothing(body: bytes):
    info = told(HUBSPOT, status=429, body=body)
    assert info is not None
    assert (info.reason, info.violated) == (None, ())
