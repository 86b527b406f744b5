"""Whatever an upstream sends, reading it never raises and tells only usable numbers."""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st

from paceline.rate.dialects import DIALECT_NAMES, parse_rate_headers
from paceline.rate.dialects.vendors import ALL_DIALECTS
from paceline.rate.rate_info import RateInfo
from paceline.retry_after import RETRY_AFTER_FIELDS, parse_retry_after

NAMES = sorted(
    {name for dialect in ALL_DIALECTS for name in (*dialect.field_names(), *dialect.signature_fields)}
    | RETRY_AFTER_FIELDS
    | {"age", "date", "content-type"}
)
MOST_S = 900.0

noise = st.binary(max_size=60).map(lambda raw: raw.decode("latin-1"))
written = st.one_of(
    st.integers(-5, 10**20).map(str),
    st.floats().map(str),
    st.text(alphabet="0123456789.:-+TZ amsh,;=\"()?@%'/\\", max_size=40),
    st.text(max_size=20),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S GMT")),
    st.sampled_from(["inf", "nan", "1e309", "1_000", "\u0661", "\u00b2", "\ud800", '"a";r=1;t=9999999999', "40/40"]),
)
named = st.sampled_from(["a", "default", "\u00e9", 'q"', "(", "limit", "policy"])
number = st.one_of(st.integers(-2, 10**16), st.floats(0, 100), st.sampled_from(["", "?1", ":YQ==:", "tok", "@1", "()"]))
structured = st.lists(
    st.tuples(named, st.lists(st.tuples(st.sampled_from("rtqwlk"), number), max_size=4), st.booleans()), max_size=4
).map(
    lambda items: ", ".join(
        (f'"{name}"' if quoted else name) + "".join(f";{key}={value}" for key, value in params)
        for name, params, quoted in items
    )
)
headers = st.lists(st.tuples(st.sampled_from(NAMES), st.one_of(noise, written, structured)), max_size=12).map(tuple)


def usable(info: RateInfo) -> bool:
    waits = [info.retry_after_s, *(window.reset_after_s for window in info.windows)]
    numbers = [value for window in info.windows for value in (window.limit, window.remaining, window.per_s)]
    positive = all(value is None or value > 0 for window in info.windows for value in (window.limit, window.per_s))
    told = [value for value in (*waits, *numbers) if value is not None]
    return (
        positive
        and all(type(value) is float and math.isfinite(value) and value >= 0 for value in told)
        and all(wait is None or wait <= MOST_S for wait in waits)
    )


@given(
    headers,
    st.sampled_from(DIALECT_NAMES),
    st.sampled_from([200, 202, 304, 403, 404, 429, 500, 503]),
    st.floats(0, 4e9),
    st.binary(max_size=100),
)
@example((("date", "Mon, 21 Sep 9999 14:13:20 GMT"), ("x-ratelimit-reset", "1000000000")), "auto", 429, 0.0, b"")
@example((("date", "Mon, 01 Jan 0001 00:00:00 GMT"), ("x-ratelimit-reset", "999999999999999")), "auto", 429, 0.0, b"")
@example((("retry-after", "Monday, 21-Sep-26 14:13:50 GMT"),), "auto", 429, 4e9, b"{" * 100)
def test_reading_never_raises_and_tells_only_usable_numbers(
    response_headers: tuple[tuple[str, str], ...], dialect: str, status: int, now_epoch_s: float, body: bytes
) -> None:
    retry_after_s = parse_retry_after(response_headers, now_epoch_s)
    info = parse_rate_headers(
        response_headers,
        dialect,
        status=status,
        now_epoch_s=now_epoch_s,
        max_reset_s=MOST_S,
        retry_after_s=retry_after_s,
        body=body,
    )
    assert retry_after_s is None or 0 <= retry_after_s < math.inf
    assert info is None or usable(info)
    assert info is None or info.dialect in DIALECT_NAMES
    if status < 400:
        assert info is None or info.retry_after_s is None


@given(st.lists(st.tuples(st.sampled_from(NAMES), noise), max_size=6).map(tuple), st.integers(1, 10**9))
def test_nothing_out_of_a_cache_is_believed(response_headers: tuple[tuple[str, str], ...], age: int) -> None:
    cached = (("age", str(age)), *response_headers)
    assert parse_rate_headers(cached, status=429, now_epoch_s=1.8e9, max_reset_s=MOST_S) is None


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**5), st.integers(1, 10**5))
def test_what_the_ietf_wrote_is_read_back(limit: int, remaining: int, reset_s: int, per_s: int) -> None:
    fields = (("ratelimit-policy", f'"n";q={limit};w={per_s}'), ("ratelimit", f'"n";r={remaining};t={reset_s}'))
    info = parse_rate_headers(fields, status=200, now_epoch_s=1.8e9, max_reset_s=1e6)
    assert info is not None
    (window,) = info.windows
    assert (window.limit, window.remaining, window.reset_after_s, window.per_s) == (limit, remaining, reset_s, per_s)
