"""`paceline run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.commands.shared_flags import (
    Burst,
    ConfigFile,
    KeyFile,
    KeyVariable,
    MaxConcurrency,
    RateText,
    ServerUrl,
    local_config,
    remote_service,
)
from paceline.model import Priority, Strategy

if TYPE_CHECKING:
    from paceline.cli.backend import Backend


def run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Items as NDJSON, one a line; - is the standard input.")],
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="OUT", help="Write the outcomes here, not to the standard output."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with OUT: skip the ids that succeeded, try the others again.")
    ] = False,
    config: ConfigFile = None,
    server: ServerUrl = None,
    key: KeyVariable = None,
    key_file: KeyFile = None,
    strategy: Annotated[Strategy, typer.Option(help="How the items are fanned out.")] = Strategy.ADAPTIVE,
    max_concurrency: MaxConcurrency = None,
    rate: RateText = None,
    burst: Burst = None,
    deadline: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="End what is not done after TIME, as in 10m; never unless given."),
    ] = None,
    priority: Annotated[Priority, typer.Option(help="The class these items wait in.")] = Priority.NORMAL,
    attempts: Annotated[
        int | None, typer.Option(metavar="N", help="Try each item up to N times; 3 unless configured.")
    ] = None,
    lookahead: Annotated[
        int, typer.Option(metavar="N", min=1, help="At most N items are read and not yet written.")
    ] = 1000,
) -> None:
    """Send every item of FILE and write one outcome a line, in order of completion.

    Each line is an item as in POST /v1/batch, for example {"id": "a", "url": "https://api.example.com/a"}.
    A line that is no item gets the outcome "rejected" and stops nothing. Memory does not grow with FILE, but for
    about 30 bytes an id. Where OUT holds an id more than once, its last line counts.

    Exit code: 0 all succeeded; 1 some did not; 2 it could not run, or go on, as called; 130 or 143 interrupted, and
    --resume does the rest.
    """
    from paceline.cli.flag_parsing import batch_from_flags
    from paceline.cli.run_file import RunFiles, run_file

    batch = batch_from_flags(
        strategy=strategy,
        max_concurrency=max_concurrency,
        rate=rate,
        burst=burst,
        deadline=deadline,
        priority=priority,
        attempts=attempts,
    )
    client = remote_service(server, key, key_file, config)
    local = local_config(config) if client is None else None

    def open_backend() -> Backend:
        if client is not None:
            from paceline.cli.remote_backend import RemoteBackend

            return RemoteBackend(client, batch, lookahead)
        from paceline.cli.local_backend import LocalBackend

        assert local is not None
        return LocalBackend(local, batch)

    raise typer.Exit(run_file(RunFiles(file, output, resume), open_backend, lookahead))
