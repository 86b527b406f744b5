"""`paceline plan`."""

from __future__ import annotations

from typing import Annotated

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


def plan(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Items as NDJSON, one a line; - is the standard input.")],
    config: ConfigFile = None,
    server: ServerUrl = None,
    key: KeyVariable = None,
    key_file: KeyFile = None,
    strategy: Annotated[Strategy, typer.Option(help="How the items are fanned out.")] = Strategy.ADAPTIVE,
    max_concurrency: MaxConcurrency = None,
    rate: RateText = None,
    burst: Burst = None,
    deadline: Annotated[
        str | None, typer.Option(metavar="TIME", help="Count what would not be done after TIME, as in 10m.")
    ] = None,
    priority: Annotated[Priority, typer.Option(help="The class these items wait in.")] = Priority.NORMAL,
    call: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Take every call to last TIME; 100ms unless given. A --server knows better."),
    ] = None,
    lookahead: Annotated[int, typer.Option(metavar="N", min=1, help="As for run.")] = 1000,
) -> None:
    """Say how long sending every item of FILE would take, what it would wait for, and what would be rejected.

    Nothing is sent. Calls are taken to succeed. With --server it is one batch of that service, beside all that it does
    already.

    Exit code: 0 everything would be sent, and in time; 1 something would not; 2 it could not plan as called.
    """
    from paceline.cli.flag_parsing import batch_from_flags, parse_duration_flag
    from paceline.cli.plan_file import plan_file
    from paceline.cli.usage_error import UsageError

    batch = batch_from_flags(
        strategy=strategy, max_concurrency=max_concurrency, rate=rate, burst=burst, deadline=deadline, priority=priority
    )
    client = remote_service(server, key, key_file, config)
    if client is not None and call is not None:
        raise UsageError("--call: the service at --server knows how long its calls take; remove it")
    call_s = None if call is None else parse_duration_flag("--call", call)
    raise typer.Exit(plan_file(file, batch, client or local_config(config), lookahead, call_s))
