"""The HTTP statuses that are tried again: throttles and transient failures, each with its reason.

Classification, the configuration's schema and the table in docs/configuration.md are made from these tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

THROTTLE_STATUSES = frozenset({429})
"""A throttle, whatever the headers say."""

CONDITIONAL_THROTTLE_STATUSES = frozenset({403, 503})
"""A throttle where the response names a wait, or a window with nothing remaining."""

TRANSIENT_REASONS: Mapping[int, str] = MappingProxyType(
    {
        408: "the upstream waited too long for the request",
        425: "the upstream does not risk a replayed request",
        500: "the upstream failed while it processed the request",
        502: "a gateway got no valid response",
        503: "the upstream is overloaded or down for maintenance",
        504: "a gateway got no response in time",
        520: "Cloudflare got an empty or unknown response",
        521: "Cloudflare was refused a connection",
        522: "Cloudflare could not connect in time",
        523: "Cloudflare found no route to the upstream",
        524: "Cloudflare got no response in time",
        529: "the upstream is overloaded",
    }
)
"""Statuses that another attempt may turn into a success, and why."""

TRANSIENT_STATUSES = frozenset(TRANSIENT_REASONS)
"""What is tried again unless the configuration adds to it."""


def format_statuses(statuses: Iterable[int]) -> str:
    """Statuses in ascending order, a run of four or more as a range: `408, 500, 520 to 524 and 529`."""
    runs: list[list[int]] = []
    for status in sorted(statuses):
        if runs and runs[-1][-1] == status - 1:
            runs[-1].append(status)
        else:
            runs.append([status])
    parts: list[str] = []
    for run in runs:
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 3 else map(str, run)
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
