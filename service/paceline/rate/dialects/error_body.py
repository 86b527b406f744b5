"""The reason of a refusal, where only the body names it."""

from __future__ import annotations

from msgspec import DecodeError, Struct, field
from msgspec.json import decode

_MAX_BODY_BYTES = 16384
_MAX_NAME_LENGTH = 128
_MAX_NAMES = 32
_IETF_PROBLEM_TYPES = frozenset({"quota-exceeded", "temporary-reduced-capacity", "abnormal-usage-detected"})
_HUBSPOT_POLICIES = frozenset({"DAILY", "TEN_SECONDLY_ROLLING", "SECONDLY"})


class _ErrorBody(Struct, frozen=True):
    type: str = ""
    violated: list[str] = field(name="violated-policies", default_factory=list)
    policy: str = field(name="policyName", default="")


def parse_error_body(body: bytes) -> tuple[str | None, tuple[str, ...]]:
    """The reason that a JSON body gives, and the policies that it names as violated.

    Reads the IETF's problem types and HubSpot's `policyName`; everything else is ignored.
    """
    if not body or len(body) > _MAX_BODY_BYTES or body.lstrip()[:1] != b"{":
        return None, ()
    try:
        parsed = decode(body, type=_ErrorBody)
    except (DecodeError, RecursionError, UnicodeDecodeError):
        return None, ()
    problem = parsed.type.rpartition("#")[2]
    if problem in _IETF_PROBLEM_TYPES:
        names = (name for name in parsed.violated[:_MAX_NAMES] if 0 < len(name) <= _MAX_NAME_LENGTH)
        return problem, tuple(names)
    return (parsed.policy, ()) if parsed.policy in _HUBSPOT_POLICIES else (None, ())
