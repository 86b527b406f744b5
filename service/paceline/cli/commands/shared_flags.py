"""Flags that several commands share, each declared once, and what `--server` and `--config` give a command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from paceline.cli.io.service_client import ServiceClient
    from paceline.config import Config

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The configuration; config/paceline.yaml where that exists."),
]
ServerUrl = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="Go through this running service instead of an engine of our own."),
]
KeyVariable = Annotated[
    str | None,
    typer.Option(
        "--key", metavar="NAME", help="The environment variable that holds the service's API key [PACELINE_KEY]."
    ),
]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", metavar="FILE", help="A file that holds the service's API key.")
]
RateText = Annotated[
    str | None,
    typer.Option("--rate", metavar="N/TIME", help="At most N in any stretch of TIME, as in 50/1s or 100/1m."),
]
Burst = Annotated[
    float | None, typer.Option("--burst", metavar="N", help="How many of --rate may go at once; 1 is an even beat.")
]
MaxConcurrency = Annotated[
    int | None, typer.Option("--max-concurrency", metavar="N", help="At most N calls in flight.")
]


def remote_service(
    server: str | None, key: str | None, key_file: Path | None, config: Path | None
) -> ServiceClient | None:
    """Return the client of the service that `--server` names, if it does.

    Raises:
        UsageError: its address or key is none, or a configuration is given as well.
    """
    from paceline.cli.flag_parsing import read_api_key
    from paceline.cli.usage_error import UsageError

    if server is None:
        if key is not None or key_file is not None:
            raise UsageError("--key and --key-file: belong to a --server; name one")
        return None
    if config is not None:
        raise UsageError("--config: the service at --server has its own; give one of them")
    from paceline.cli.io.service_client import ServiceClient  # httpx2 with it

    return ServiceClient(server, read_api_key(key, key_file))


def local_config(file: Path | None) -> Config:
    """Read the configuration of a run in this process."""
    from paceline.settings import read_config, read_settings

    return read_config(read_settings(config=file), os.environ)
