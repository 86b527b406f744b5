"""The IETF's fields in the four forms of its drafts, parsed as structured fields (RFC 9651).

`"default";r=50;t=30` is the current draft, `limit=100, remaining=50, reset=5` is version 07, versions to 06 have one
field for each value, and an interim text of 2023 has bare words and `l` for the quota. A field that holds anything its
draft does not allow is ignored as a whole; unknown parameters are skipped.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable

from http_sf import Token, parse
from msgspec.structs import replace

from paceline.header_values import number
from paceline.rate.dialects.dialect import RateHeaders
from paceline.rate.dialects.reset_values import parse_reset
from paceline.rate.rate_info import RateWindowInfo
from paceline.units import MAX_DURATION_S

_MAX_FIELD_LENGTH = 2048
_MAX_WINDOWS = 32
_MAX_NAME_LENGTH = 128

Params = dict[str, object]
Windows = tuple[RateWindowInfo, ...]


class _Malformed(ValueError):
    """The field holds what its draft does not allow."""


def parse_current_draft(headers: RateHeaders) -> Windows:
    """Draft 08 and later: names are strings, `r` remaining, `t` seconds to the reset, `q` quota, `w` window."""
    return _match_by_name(headers, _require_string, "q")


def parse_interim2023(headers: RateHeaders) -> Windows:
    """The interim text of 2023: names are bare words, the quota is `l`; or one policy named in a dictionary."""
    counters = _parse_field(headers, "ratelimit", _parse_dictionary)
    return _match_by_name(headers, _require_string_or_token, "l", counters)


def parse_draft07(headers: RateHeaders) -> Windows:
    """Draft 07: one dictionary, and policies that are identified by their quota."""
    counters = _parse_field(headers, "ratelimit", _parse_dictionary)
    return _match_by_quota(
        counters[0] if counters else None, _parse_field(headers, "ratelimit-policy", _parse_unnamed_policies), headers
    )


def parse_draft06(headers: RateHeaders) -> Windows:
    """Drafts to 06: one field for each value; the earliest put the policies behind the limit."""
    text = headers.fields.get("ratelimit-limit", "")
    policies = _parse_field(headers, "ratelimit-policy", _parse_unnamed_policies)
    limit = number(text) or None
    if "," in text:
        first, _, rest = text.partition(",")
        trailing_policies = _parse_windows(_parse_unnamed_policies, rest)
        # Only policies may stand there, each with its window: `5,000` is no limit of 5.
        if trailing_policies and all(policy.per_s for policy in trailing_policies):
            limit, policies = number(first) or None, policies or trailing_policies
    remaining = headers.parse_number("ratelimit-remaining")
    reset = headers.fields.get("ratelimit-reset")
    reset_time = None if reset is None else parse_reset(reset, headers.sent_at_epoch_s)
    counter = None
    if limit is not None or remaining is not None or reset_time is not None:
        seconds, whole_seconds = (None, False) if reset_time is None else reset_time
        counter = RateWindowInfo("default", "requests", limit, remaining, seconds, None, whole_seconds)
    return _match_by_quota(counter, policies, headers)


def _match_by_name(
    headers: RateHeaders, name_of: Callable[[object], str], quota: str, counters: list[RateWindowInfo] | None = None
) -> Windows:
    counters = counters or _parse_field(headers, "ratelimit", lambda text: _parse_counters(text, name_of))
    policies = _parse_field(headers, "ratelimit-policy", lambda text: _parse_policies(text, name_of, quota))
    return tuple(_clamp_reset(headers, window) for window in _join_policies(counters, policies))


def _join_policies(counters: list[RateWindowInfo], policies: list[RateWindowInfo]) -> Windows:
    """Each counter with the policy of its name (and partition, where both name one); then the unmatched policies."""
    unmatched = list(policies)
    windows: list[RateWindowInfo] = []
    for counter in counters:
        policy = next((each for each in unmatched if _names_same_window(each, counter)), None)
        if policy is not None:
            unmatched.remove(policy)
            counter = replace(
                counter,
                unit=policy.unit,
                limit=counter.limit or policy.limit,
                per_s=policy.per_s,
                partition=counter.partition or policy.partition,
            )
        windows.append(counter)
    return (*windows, *unmatched)


def _names_same_window(policy: RateWindowInfo, counter: RateWindowInfo) -> bool:
    if policy.name != counter.name:
        return False
    return policy.partition == counter.partition or policy.partition is None or counter.partition is None


def _match_by_quota(counter: RateWindowInfo | None, policies: list[RateWindowInfo], headers: RateHeaders) -> Windows:
    """The counter with the policy of its quota, whose window it must fit; then the unmatched policies."""
    if counter is None:
        return tuple(policies)
    reset_s = counter.reset_after_s or 0.0
    for policy in policies:
        if policy.limit == counter.limit and (policy.per_s is None or policy.per_s >= reset_s):
            counter = replace(counter, per_s=policy.per_s)
            policies = [other for other in policies if other is not policy]
            break
    return (_clamp_reset(headers, counter), *policies)


def _clamp_reset(headers: RateHeaders, window: RateWindowInfo) -> RateWindowInfo:
    if window.reset_after_s is None or window.reset_after_s <= headers.max_reset_s:
        return window
    return replace(window, reset_after_s=headers.clamp_wait(window.reset_after_s))


def _parse_field(
    headers: RateHeaders, name: str, parser: Callable[[str], list[RateWindowInfo]]
) -> list[RateWindowInfo]:
    text = headers.fields.get(name)
    return [] if text is None else _parse_windows(parser, text)


def _parse_windows(parser: Callable[[str], list[RateWindowInfo]], text: str) -> list[RateWindowInfo]:
    if len(text) > _MAX_FIELD_LENGTH:
        return []
    try:
        windows = parser(text)
    except ValueError:  # the parser's own, ours, and text that is not ASCII
        return []
    return windows if len(windows) <= _MAX_WINDOWS else []


def _parse_counters(text: str, name_of: Callable[[object], str]) -> list[RateWindowInfo]:
    return [
        RateWindowInfo(
            name_of(value),
            remaining=_require_present(_optional_count(params, "r")),
            reset_after_s=_optional_count(params, "t"),
            whole_seconds="t" in params,
            partition=_partition(params),
        )
        for value, params in _parse_items(text)
    ]


def _parse_policies(text: str, name_of: Callable[[object], str], quota: str) -> list[RateWindowInfo]:
    return [
        RateWindowInfo(
            name_of(value),
            unit=_unit(params),
            limit=_require_present(_optional_count(params, quota)) or None,
            per_s=_window_length_s(params),
            partition=_partition(params),
        )
        for value, params in _parse_items(text)
    ]


def _parse_unnamed_policies(text: str) -> list[RateWindowInfo]:
    policies = []
    for value, params in _parse_items(text):
        limit, per_s = _require_count(value), _window_length_s(params)
        name = f"{limit:.0f}" if per_s is None else f"{limit:.0f};w={per_s:.0f}"
        policies.append(RateWindowInfo(name, limit=limit or None, per_s=per_s))
    return policies


def _parse_dictionary(text: str) -> list[RateWindowInfo]:
    parsed = parse(text.encode("ascii"), tltype="dictionary")
    assert isinstance(parsed, dict)
    members: Params = {key: member[0] for key, member in parsed.items() if isinstance(member, tuple)}
    limit, remaining, reset = (
        _optional_count(members, "limit"),
        _optional_count(members, "remaining"),
        _optional_count(members, "reset"),
    )
    if limit is None and remaining is None and reset is None:
        raise _Malformed
    name = _require_string_or_token(members["policy"]) if "policy" in members else "default"
    return [RateWindowInfo(name, "requests", limit or None, remaining, reset, None, reset is not None)]


def _parse_items(text: str) -> list[tuple[object, Params]]:
    items: list[tuple[object, Params]] = []
    parsed = parse(text.encode("ascii"), tltype="list")
    assert isinstance(parsed, list)
    for member in parsed:
        if not isinstance(member, tuple) or not isinstance(member[1], dict):
            raise _Malformed
        items.append((member[0], dict(member[1])))
    return items


def _require_string(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME_LENGTH:
        raise _Malformed
    return value


def _require_string_or_token(value: object) -> str:
    """A bare word, or a string as in later versions of the text."""
    return _require_string(str(value) if isinstance(value, Token) else value)


def _require_count(value: object) -> float:
    # By exact type: a boolean is an int to isinstance.
    if type(value) is not int or value < 0:
        raise _Malformed
    return float(value)


def _optional_count(params: Params, name: str) -> float | None:
    return _require_count(params[name]) if name in params else None


def _require_present(value: float | None) -> float:
    if value is None:
        raise _Malformed
    return value


def _window_length_s(params: Params) -> float | None:
    seconds = _optional_count(params, "w")
    if seconds == 0:
        raise _Malformed
    # A window of more than a year limits nothing that can be paced.
    return seconds if seconds is None or seconds <= MAX_DURATION_S else None


def _unit(params: Params) -> str:
    return _require_string_or_token(params["qu"]) if "qu" in params else "requests"


def _partition(params: Params) -> str | None:
    key = params.get("pk")
    if key is None:
        return None
    if not isinstance(key, bytes) or len(key) > _MAX_NAME_LENGTH:
        raise _Malformed
    return b64encode(key).decode("ascii")
