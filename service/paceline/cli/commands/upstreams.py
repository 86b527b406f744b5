"""`paceline upstreams` and what it can change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.commands.flags import KeyFile, KeyVariable

if TYPE_CHECKING:
    from paceline.cli.client import ServiceClient

DEFAULT_SERVICE = "http://127.0.0.1:8080"


upstreams = typer.Typer(
    help="How the upstreams of a running service stand; pause one, change its rate, reset it.",
    short_help="How a running service's upstreams stand; pause, retune or reset one.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
)
UpstreamName = Annotated[str, typer.Argument(metavar="NAME", help="The upstream.")]
RunningService = Annotated[
    str | None, typer.Option("--server", metavar="URL", help=f"The service; {DEFAULT_SERVICE} unless given.")
]


@upstreams.callback()
def _upstreams(
    context: typer.Context, server: RunningService = None, key: KeyVariable = None, key_file: KeyFile = None
) -> None:
    """Without a command: a table of rates, waiters and pauses. What is changed holds until a reset or a reload."""
    from paceline.cli.upstreams import show

    context.obj = (server, key, key_file)
    if context.invoked_subcommand is None:
        raise typer.Exit(show(_running(context, None, None, None)))


@upstreams.command("pause")
def _pause(
    context: typer.Context,
    name: UpstreamName,
    server: RunningService = None,
    key: KeyVariable = None,
    key_file: KeyFile = None,
) -> None:
    """Send nothing more to it until it is resumed; what is in flight goes on."""
    _change(context, name, {"paused": True}, server, key, key_file)


@upstreams.command("resume")
def _resume(
    context: typer.Context,
    name: UpstreamName,
    server: RunningService = None,
    key: KeyVariable = None,
    key_file: KeyFile = None,
) -> None:
    """Lift a pause."""
    _change(context, name, {"paused": False}, server, key, key_file)


@upstreams.command("rate")
def _retune(
    context: typer.Context,
    name: UpstreamName,
    rates: Annotated[
        list[str], typer.Argument(metavar="N/TIME...", help="Its windows from now on, as in 50/1s 5000/1h.")
    ],
    burst: Annotated[
        float | None, typer.Option(metavar="N", help="How many may go at once; where one window is given.")
    ] = None,
    server: RunningService = None,
    key: KeyVariable = None,
    key_file: KeyFile = None,
) -> None:
    """Change its rate windows; what was counted stays counted."""
    from paceline.cli.options import UsageProblem, read_rate
    from paceline.cli.upstreams import rate_patch

    if burst is not None and len(rates) > 1:
        raise UsageProblem("--burst: belongs to one window, and several are given; give one, or no burst")
    _change(context, name, rate_patch([read_rate(rate, burst) for rate in rates]), server, key, key_file)


@upstreams.command("reset")
def _reset(
    context: typer.Context,
    name: UpstreamName,
    server: RunningService = None,
    key: KeyVariable = None,
    key_file: KeyFile = None,
) -> None:
    """Back to its configuration; what was learned is forgotten."""
    _change(context, name, {"reset": True}, server, key, key_file)


def _change(
    context: typer.Context,
    name: str,
    patch: dict[str, object],
    server: str | None,
    key: str | None,
    key_file: Path | None,
) -> None:
    from paceline.cli.upstreams import change

    raise typer.Exit(change(_running(context, server, key, key_file), name, patch))


def _running(context: typer.Context, server: str | None, key: str | None, key_file: Path | None) -> ServiceClient:
    """The service that is meant: flags may stand before the command or after it."""
    from paceline.cli.client import ServiceClient
    from paceline.cli.options import read_key

    before_server, before_key, before_file = context.obj
    address = server or before_server or DEFAULT_SERVICE
    return ServiceClient(address, read_key(key or before_key, key_file or before_file))
