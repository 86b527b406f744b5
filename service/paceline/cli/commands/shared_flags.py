"""Flags that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
