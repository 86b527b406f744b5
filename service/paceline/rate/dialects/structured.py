"""The IETF's fields in the four shapes that its drafts gave them, read as structured fields (RFC 9651).

`"default";r=50;t=30` is the draft's head, `limit=100, remaining=50, reset=5` its version 07, a field a value the
versions to 06, and a text of 2023 had bare words and `l` for the quota. A field with anything in it that its draft does
not allow is ignored as a whole; parameters that nobody knows are passed over.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable

from http_sf import Token, parse
from msgspec.structs import replace

from paceline.http_values import number
from paceline.rate.dialects.resets import reset_of
from paceline.rate.dialects.table import Answer
from paceline.rate.rate_info import RateWindowInfo
from paceline.units import LONGEST_S

_LONGEST_FIELD = 2048
_MOST_WINDOWS = 32
_LONGEST_NAME = 128

Params = dict[str, object]
Windows = tuple[RateWindowInfo, ...]


class _Malformed(ValueError):
    """The field holds what its draft does not allow."""


def head(answer: Answer) -> Windows:
    """Draft 08 and later: names are strings, `r` remaining, `t` seconds to the reset, `q` quota, `w` window."""
    return _by_name(answer, _quoted, "q")


def interim(answer: Answer) -> Windows:
    """The text of 2023: names are bare words, the quota is `l`; or one policy named in a dictionary."""
    counted = _field(answer, "ratelimit", _dictionary)
    return _by_name(answer, _word, "l", counted)


def draft07(answer: Answer) -> Windows:
    """Draft 07: one dictionary, and policies that are told by their quota."""
    counted = _field(answer, "ratelimit", _dictionary)
    return _by_quota(counted[0] if counted else None, _field(answer, "ratelimit-policy", _unnamed_policies), answer)


def draft06(answer: Answer) -> Windows:
    """Drafts to 06: a field a value; the earliest put the policies behind the limit."""
    text = answer.fields.get("ratelimit-limit", "")
    policies = _field(answer, "ratelimit-policy", _unnamed_policies)
    limit = number(text) or None
    if "," in text:
        first, _, rest = text.partition(",")
        behind = _parsed(_unnamed_policies, rest)
        # Only policies may stand there, each with its window: `5,000` is no limit of 5.
        if behind and all(policy.per_s for policy in behind):
            limit, policies = number(first) or None, policies or behind
    remaining = answer.count("ratelimit-remaining")
    reset = answer.fields.get("ratelimit-reset")
    told = None if reset is None else reset_of(reset, answer.sent_at)
    counted = None
    if limit is not None or remaining is not None or told is not None:
        seconds, whole = (None, False) if told is None else told
        counted = RateWindowInfo("default", "requests", limit, remaining, seconds, None, whole)
    return _by_quota(counted, policies, answer)


def _by_name(
    answer: Answer, name_of: Callable[[object], str], quota: str, counted: list[RateWindowInfo] | None = None
) -> Windows:
    counted = counted or _field(answer, "ratelimit", lambda text: _counters(text, name_of))
    policies = _field(answer, "ratelimit-policy", lambda text: _policies(text, name_of, quota))
    return tuple(_within(answer, window) for window in _joined(counted, policies))


def _joined(counted: list[RateWindowInfo], policies: list[RateWindowInfo]) -> Windows:
    """Each counter with the policy of its name (and partition, where both name one); then the policies left over."""
    left = list(policies)
    windows: list[RateWindowInfo] = []
    for counter in counted:
        policy = next((each for each in left if _same(each, counter)), None)
        if policy is not None:
            left.remove(policy)
            counter = replace(
                counter,
                unit=policy.unit,
                limit=counter.limit or policy.limit,
                per_s=policy.per_s,
                partition=counter.partition or policy.partition,
            )
        windows.append(counter)
    return (*windows, *left)


def _same(policy: RateWindowInfo, counter: RateWindowInfo) -> bool:
    if policy.name != counter.name:
        return False
    return policy.partition == counter.partition or policy.partition is None or counter.partition is None


def _by_quota(counted: RateWindowInfo | None, policies: list[RateWindowInfo], answer: Answer) -> Windows:
    """The counter with the policy of its quota, whose window it must fit; then the policies left over."""
    if counted is None:
        return tuple(policies)
    reset_s = counted.reset_after_s or 0.0
    for policy in policies:
        if policy.limit == counted.limit and (policy.per_s is None or policy.per_s >= reset_s):
            counted = replace(counted, per_s=policy.per_s)
            policies = [other for other in policies if other is not policy]
            break
    return (_within(answer, counted), *policies)


def _within(answer: Answer, window: RateWindowInfo) -> RateWindowInfo:
    if window.reset_after_s is None or window.reset_after_s <= answer.max_reset_s:
        return window
    return replace(window, reset_after_s=answer.bounded(window.reset_after_s))


def _field(answer: Answer, name: str, reader: Callable[[str], list[RateWindowInfo]]) -> list[RateWindowInfo]:
    text = answer.fields.get(name)
    return [] if text is None else _parsed(reader, text)


def _parsed(reader: Callable[[str], list[RateWindowInfo]], text: str) -> list[RateWindowInfo]:
    if len(text) > _LONGEST_FIELD:
        return []
    try:
        windows = reader(text)
    except ValueError:  # the parser's own, ours, and text that is not ASCII
        return []
    return windows if len(windows) <= _MOST_WINDOWS else []


def _counters(text: str, name_of: Callable[[object], str]) -> list[RateWindowInfo]:
    return [
        RateWindowInfo(
            name_of(value),
            remaining=_needed(_count(params, "r")),
            reset_after_s=_count(params, "t"),
            whole_seconds="t" in params,
            partition=_partition(params),
        )
        for value, params in _items(text)
    ]


def _policies(text: str, name_of: Callable[[object], str], quota: str) -> list[RateWindowInfo]:
    return [
        RateWindowInfo(
            name_of(value),
            unit=_unit(params),
            limit=_needed(_count(params, quota)) or None,
            per_s=_length(params),
            partition=_partition(params),
        )
        for value, params in _items(text)
    ]


def _unnamed_policies(text: str) -> list[RateWindowInfo]:
    policies = []
    for value, params in _items(text):
        limit, per_s = _whole(value), _length(params)
        name = f"{limit:.0f}" if per_s is None else f"{limit:.0f};w={per_s:.0f}"
        policies.append(RateWindowInfo(name, limit=limit or None, per_s=per_s))
    return policies


def _dictionary(text: str) -> list[RateWindowInfo]:
    parsed = parse(text.encode("ascii"), tltype="dictionary")
    assert isinstance(parsed, dict)
    told: Params = {key: member[0] for key, member in parsed.items() if isinstance(member, tuple)}
    limit, remaining, reset = _count(told, "limit"), _count(told, "remaining"), _count(told, "reset")
    if limit is None and remaining is None and reset is None:
        raise _Malformed
    name = _word(told["policy"]) if "policy" in told else "default"
    return [RateWindowInfo(name, "requests", limit or None, remaining, reset, None, reset is not None)]


def _items(text: str) -> list[tuple[object, Params]]:
    items: list[tuple[object, Params]] = []
    parsed = parse(text.encode("ascii"), tltype="list")
    assert isinstance(parsed, list)
    for member in parsed:
        if not isinstance(member, tuple) or not isinstance(member[1], dict):
            raise _Malformed
        items.append((member[0], dict(member[1])))
    return items


def _quoted(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME:
        raise _Malformed
    return value


def _word(value: object) -> str:
    """A bare word; a string too, as the text changed its mind."""
    return _quoted(str(value) if isinstance(value, Token) else value)


def _whole(value: object) -> float:
    # By exact type: a boolean is an int to isinstance.
    if type(value) is not int or value < 0:
        raise _Malformed
    return float(value)


def _count(params: Params, name: str) -> float | None:
    return _whole(params[name]) if name in params else None


def _needed(value: float | None) -> float:
    if value is None:
        raise _Malformed
    return value


def _length(params: Params) -> float | None:
    seconds = _count(params, "w")
    if seconds == 0:
        raise _Malformed
    # A window of more than a year limits nothing that can be paced.
    return seconds if seconds is None or seconds <= LONGEST_S else None


def _unit(params: Params) -> str:
    return _word(params["qu"]) if "qu" in params else "requests"


def _partition(params: Params) -> str | None:
    key = params.get("pk")
    if key is None:
        return None
    if not isinstance(key, bytes) or len(key) > _LONGEST_NAME:
        raise _Malformed
    return b64encode(key).decode("ascii")
