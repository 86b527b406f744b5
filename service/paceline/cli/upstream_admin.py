"""`paceline upstreams`: show the upstreams of a running service, and change one while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec
from msgspec import Struct

from paceline.cli.ui.table import format_ms, render_table
from paceline.model import Rate

if TYPE_CHECKING:
    from paceline.cli.io.service_client import ServiceClient

_PATH = "/v1/upstreams"


class _WindowState(Struct):
    limit: float
    per: str | None
    unit: str
    remaining: float
    source: str = "declared"


class _BudgetState(Struct):
    key: str
    paused_for_ms: float
    windows: list[_WindowState]


class _UpstreamState(Struct):
    """What is shown of an upstream; the service says more."""

    name: str
    paused: bool
    in_flight: int
    queued: int
    concurrency_limit: int
    breaker: str
    budgets: list[_BudgetState]


class _UpstreamList(Struct):
    upstreams: list[_UpstreamState]


def show_upstreams(client: ServiceClient) -> int:
    """Print every upstream.

    Raises:
        UsageError: the service cannot be reached, or refuses.
    """
    states = msgspec.json.decode(asyncio.run(_request(client, "GET", _PATH)), type=_UpstreamList).upstreams
    print(_upstreams_table(states) if states else "the service declares no upstream")
    return 0


def change_upstream(client: ServiceClient, name: str, patch: dict[str, object]) -> int:
    """Change an upstream until a reset or a reload, and print its new state.

    Raises:
        UsageError: the service cannot be reached, or refuses.
    """
    body = asyncio.run(_request(client, "PATCH", f"{_PATH}/{quote(name, safe='')}", msgspec.json.encode(patch)))
    print(_upstreams_table([msgspec.json.decode(body, type=_UpstreamState)]))
    return 0


def rate_patch(rates: Sequence[Rate]) -> dict[str, object]:
    """The windows as the service takes them."""
    return {"rate": [{"limit": rate.limit, "per": rate.per_s, "burst": rate.burst} for rate in rates]}


async def _request(client: ServiceClient, method: str, path: str, body: bytes = b"") -> bytes:
    async with aclosing(client):
        return await client.call(method, path, body)


def _upstreams_table(states: Sequence[_UpstreamState]) -> str:
    headings = ["upstream", "rate", "left", "in flight", "waiting", "cap", "state"]
    rows: list[list[str]] = []
    for state in states:
        upstream_cells = [f"{state.in_flight:,}", f"{state.queued:,}", f"{state.concurrency_limit:,}"]
        label = state.name
        for budget in state.budgets:
            if len(state.budgets) > 1:
                label = f"{state.name} {budget.key}"
            status = _format_status(state, budget)
            windows = [(_format_rate(window), f"{window.remaining:,.15g}") for window in budget.windows]
            for rate, remaining in windows or [("-", "-")]:
                rows.append([label, rate, remaining, *upstream_cells, status])
                label, status, upstream_cells = "", "", ["", "", ""]
    return render_table(headings, rows, left_aligned=(0, 1, 6))


def _format_rate(window: _WindowState) -> str:
    text = f"{window.limit:.15g}/{window.per or '?'}"
    if window.unit != "requests":
        text += f" {window.unit}"
    return text if window.source == "declared" else f"{text} ({window.source})"


def _format_status(state: _UpstreamState, budget: _BudgetState) -> str:
    parts = ["paused"] if state.paused else []
    if budget.paused_for_ms > 0:
        parts.append(f"throttled for {format_ms(budget.paused_for_ms)}")
    if state.breaker != "closed":
        parts.append(f"breaker {state.breaker}")
    return ", ".join(parts) or "ready"
