"""`paceline compare`."""

from __future__ import annotations

from enum import StrEnum
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
    remote_service,
)
from paceline.model import Strategy


class EngineChoice(StrEnum):
    """The engines by name, as the command line offers them."""

    AIOHTTP = "aiohttp"
    HTTPX = "httpx"


def compare(
    url: Annotated[str, typer.Argument(metavar="URL", help="What to GET.")],
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="How many requests under each strategy.")] = 200,
    strategies: Annotated[
        list[Strategy] | None, typer.Option("--strategies", help="Only this one; can be given several times.")
    ] = None,
    engines: Annotated[
        list[EngineChoice] | None, typer.Option("--engines", help="On this engine; can be given several times.")
    ] = None,
    max_concurrency: MaxConcurrency = None,
    rate: RateText = None,
    burst: Burst = None,
    unpaced: Annotated[
        bool, typer.Option("--unpaced", help="The classic four as if no limit were known; adaptive keeps to it.")
    ] = False,
    attempts: Annotated[
        int | None, typer.Option(metavar="N", help="Try each request up to N times; 3 unless configured.")
    ] = None,
    config: ConfigFile = None,
    server: ServerUrl = None,
    key: KeyVariable = None,
    key_file: KeyFile = None,
) -> None:
    """Send N requests to URL under each strategy in turn, and print a table and a plot of latency.

    A host that the configuration does not declare is taken to have the limit --rate. --unpaced needs
    allow_unpaced: true on a declared one: it will be overrun.
    """
    from paceline.cli.compare_strategies import CompareOptions
    from paceline.cli.compare_strategies import compare_strategies_of_url as compare_strategies
    from paceline.cli.flag_parsing import check_count_flags, parse_rate_flag
    from paceline.cli.usage_error import UsageError

    if burst is not None and rate is None:
        raise UsageError("--burst: belongs to a --rate; add one, as in --rate 50/1s")
    check_count_flags(max_concurrency=max_concurrency, attempts=attempts)
    options = CompareOptions(
        url=url,
        n=n,
        strategies=strategies,
        engines=None if engines is None else [engine.value for engine in engines],
        max_concurrency=max_concurrency,
        rate=None if rate is None else parse_rate_flag(rate, burst),
        unpaced=unpaced,
        attempts=attempts,
    )
    raise typer.Exit(compare_strategies(options, config, remote_service(server, key, key_file, config)))
