"""Why an upstream refused, where only the body says so."""

from __future__ import annotations

from msgspec import DecodeError, Struct, field
from msgspec.json import decode

_LONGEST_BODY = 16384
_LONGEST_NAME = 128
_MOST_NAMES = 32
_PROBLEMS = frozenset({"quota-exceeded", "temporary-reduced-capacity", "abnormal-usage-detected"})
_POLICIES = frozenset({"DAILY", "TEN_SECONDLY_ROLLING", "SECONDLY"})


class _Body(Struct, frozen=True):
    type: str = ""
    violated: list[str] = field(name="violated-policies", default_factory=list)
    policy: str = field(name="policyName", default="")


def refusal_of(body: bytes) -> tuple[str | None, tuple[str, ...]]:
    """The reason a JSON body gives and the policies it says were violated: the IETF's problem types, and HubSpot's
    `policyName`. Whatever else it may hold is passed over.
    """
    if not body or len(body) > _LONGEST_BODY or body.lstrip()[:1] != b"{":
        return None, ()
    try:
        told = decode(body, type=_Body)
    except (DecodeError, RecursionError, UnicodeDecodeError):
        return None, ()
    problem = told.type.rpartition("#")[2]
    if problem in _PROBLEMS:
        names = (name for name in told.violated[:_MOST_NAMES] if 0 < len(name) <= _LONGEST_NAME)
        return problem, tuple(names)
    return (told.policy, ()) if told.policy in _POLICIES else (None, ())
