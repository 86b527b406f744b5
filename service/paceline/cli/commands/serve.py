"""`paceline serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from paceline.cli.commands.shared_flags import ConfigFile


def serve(
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on, instead of server.host.")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="The port to listen on, instead of server.port; 0 picks one."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond loopback although no API key is needed.")
    ] = False,
) -> None:
    """Start the service; SIGTERM drains it, SIGHUP reloads the configuration."""
    from paceline.cli.server_lifecycle import run_server

    raise typer.Exit(run_server(config, host, port, insecure))
