"""`paceline upstreams` and what it can change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.commands.shared_flags import KeyFile, KeyVariable

if TYPE_CHECKING:
    from paceline.cli.io.service_client import ServiceClient

DEFAULT_SERVER_URL = "http://127.0.0.1:8080"


upstreams = typer.Typer(
    help="How the upstreams of a running service stand; pause one, change its rate, reset it.",
    short_help="How a running service's upstreams stand; pause, retune or reset one.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
)
UpstreamName = Annotated[str, typer.Argument(metavar="NAME", help="The upstream.")]
ServiceUrl = Annotated[
    str | None, typer.Option("--server", metavar="URL", help=f"The service; {DEFAULT_SERVER_URL} unless given.")
]


@upstreams.callback()
def _upstreams(
    context: typer.Context, server: ServiceUrl = None, key: KeyVariable = None, key_file: KeyFile = None
) -> None:
    """Without a command: a table of rates, waiters and pauses. What is changed holds until a reset or a reload."""
    from paceline.cli.upstream_admin import show_upstreams

    context.obj = (server, key, key_file)
    if context.invoked_subcommand is None:
        raise typer.Exit(show_upstreams(_service_client(context, None, None, None)))


@upstreams.command("pause")
def _pause(
    context: typer.Context,
    name: UpstreamName,
    server: ServiceUrl = None,
    key: KeyVariable = None,
    key_file: KeyFile = None,
) -> None:
    """Send nothing more to it until it is resumed; what is in flight goes on."""
    _send_patch(context, name, {"paused": True}, server, key, key_file)


@upstreams.command("resume")
def _resume(
    context: typer.Context,
    name: UpstreamName,
    server: ServiceUrl = None,
    key: KeyVariable = None,
    key_file: KeyFile = None,
) -> None:
    """Lift a pause."""
    _send_patch(context, name, {"paused": False}, server, key, key_file)


@upstreams.command("rate")
def _set_rate(
    context: typer.Context,
    name: UpstreamName,
    rates: Annotated[
        list[str], typer.Argument(metavar="N/TIME...", help="Its windows from now on, as in 50/1s 5000/1h.")
    ],
    burst: Annotated[
        float | None, typer.Option(metavar="N", help="How many may go at once; where one window is given.")
    ] = None,
    server: ServiceUrl = None,
    key: KeyVariable = None,
    key_file: KeyFile = None,
) -> None:
    """Change its rate windows; what was counted stays counted."""
    from paceline.cli.flag_parsing import parse_rate_flag
    from paceline.cli.upstream_admin import rate_patch
    from paceline.cli.usage_error import UsageError

    if burst is not None and len(rates) > 1:
        raise UsageError("--burst: belongs to one window, and several are given; give one, or no burst")
    _send_patch(context, name, rate_patch([parse_rate_flag(rate, burst) for rate in rates]), server, key, key_file)


@upstreams.command("reset")
def _reset(
    context: typer.Context,
    name: UpstreamName,
    server: ServiceUrl = None,
    key: KeyVariable = None,
    key_file: KeyFile = None,
) -> None:
    """Back to its configuration; what was learned is forgotten."""
    _send_patch(context, name, {"reset": True}, server, key, key_file)


def _send_patch(
    context: typer.Context,
    name: str,
    patch: dict[str, object],
    server: str | None,
    key: str | None,
    key_file: Path | None,
) -> None:
    from paceline.cli.upstream_admin import change_upstream

    raise typer.Exit(change_upstream(_service_client(context, server, key, key_file), name, patch))


def _service_client(
    context: typer.Context, server: str | None, key: str | None, key_file: Path | None
) -> ServiceClient:
    """The service that is meant: flags may stand before the command or after it."""
    from paceline.cli.flag_parsing import read_api_key
    from paceline.cli.io.service_client import ServiceClient

    group_server, group_key, group_key_file = context.obj
    address = server or group_server or DEFAULT_SERVER_URL
    return ServiceClient(address, read_api_key(key or group_key, key_file or group_key_file))
