"""Settings that are part of the plan but have nothing behind them yet: refused by name, never accepted and ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from paceline.config.keys import KeyPath, look_up

_OF_A_POLICY: tuple[KeyPath, ...] = (
    ("breaker",),
    ("retry", "budget_ratio"),
    ("retry", "budget_per_s"),
    ("concurrency", "adaptive", "min"),
    ("concurrency", "adaptive", "max"),
)


def take_unbuilt(document: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Remove each of them from the document and name it with what is wrong, so that it is told once and only so."""
    if "store" in document:
        del document["store"]
        yield ("store",), "is not built yet"
    upstreams = document.get("upstreams")
    names = upstreams if isinstance(upstreams, dict) else ()
    for policy in (("defaults",), *(("upstreams", name) for name in names)):
        yield from _take_from_policy(document, policy)


def _take_from_policy(document: dict[str, Any], policy: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    for *section, key in _OF_A_POLICY:
        holder = look_up(document, (*policy, *section))
        if isinstance(holder, dict) and key in holder:
            del holder[key]
            yield (*policy, *section, key), "is not built yet"
