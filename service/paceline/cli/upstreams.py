"""`paceline upstreams`: how the upstreams of a running service stand, and changing that while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import quote

import msgspec
from msgspec import Struct

from paceline.cli.client import BrokenOff, ServiceClient, Unreachable
from paceline.cli.grid import grid
from paceline.cli.options import UsageProblem
from paceline.cli.report import duration
from paceline.model import Rate

_PATH = "/v1/upstreams"


class _Window(Struct):
    limit: float
    per: str | None
    unit: str
    remaining: float
    source: str = "declared"


class _Budget(Struct):
    key: str
    paused_for_ms: float
    windows: list[_Window]


class _State(Struct):
    """What is shown of an upstream; the service says more."""

    name: str
    paused: bool
    in_flight: int
    queued: int
    concurrency_limit: int
    breaker: str
    budgets: list[_Budget]


class _List(Struct):
    upstreams: list[_State]


def show(client: ServiceClient) -> int:
    """Print every upstream.

    Raises:
        UsageProblem: the service cannot be reached, or refuses.
    """
    states = msgspec.json.decode(asyncio.run(_call(client, "GET", _PATH)), type=_List).upstreams
    print(_table(states) if states else "the service declares no upstream")
    return 0


def change(client: ServiceClient, name: str, patch: dict[str, object]) -> int:
    """Change an upstream until a reset or a reload, and print how it stands now.

    Raises:
        UsageProblem: the service cannot be reached, or refuses.
    """
    answer = asyncio.run(_call(client, "PATCH", f"{_PATH}/{quote(name, safe='')}", msgspec.json.encode(patch)))
    print(_table([msgspec.json.decode(answer, type=_State)]))
    return 0


def rate_patch(rates: Sequence[Rate]) -> dict[str, object]:
    """The windows as the service takes them."""
    return {"rate": [{"limit": rate.limit, "per": rate.per_s, "burst": rate.burst} for rate in rates]}


async def _call(client: ServiceClient, method: str, path: str, body: bytes = b"") -> bytes:
    try:
        async with client.call(method, path, body) as reply:
            if reply.status != 200:
                raise await reply.refusal()
            return await reply.body()
    except (Unreachable, BrokenOff) as error:
        raise UsageProblem(str(error)) from None


def _table(states: Sequence[_State]) -> str:
    headings = ["upstream", "rate", "left", "in flight", "waiting", "cap", "state"]
    rows: list[list[str]] = []
    for state in states:
        first = [f"{state.in_flight:,}", f"{state.queued:,}", f"{state.concurrency_limit:,}"]
        label = state.name
        for budget in state.budgets:
            if len(state.budgets) > 1:
                label = f"{state.name} {budget.key}"
            standing = _standing(state, budget)
            windows = [(_rate(window), f"{window.remaining:,.15g}") for window in budget.windows]
            for rate, left in windows or [("-", "-")]:
                rows.append([label, rate, left, *first, standing])
                label, standing, first = "", "", ["", "", ""]
    return grid(headings, rows, left=(0, 1, 6))


def _rate(window: _Window) -> str:
    text = f"{window.limit:.15g}/{window.per or '?'}"
    if window.unit != "requests":
        text += f" {window.unit}"
    return text if window.source == "declared" else f"{text} ({window.source})"


def _standing(state: _State, budget: _Budget) -> str:
    parts = ["paused"] if state.paused else []
    if budget.paused_for_ms > 0:
        parts.append(f"throttled for {duration(budget.paused_for_ms)}")
    if state.breaker != "closed":
        parts.append(f"breaker {state.breaker}")
    return ", ".join(parts) or "ready"
