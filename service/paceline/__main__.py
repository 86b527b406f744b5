"""The command `paceline`. Everything a command needs is imported when it is called, so that each starts at once."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.model import Priority, Strategy

if TYPE_CHECKING:
    from paceline.cli.client import ServiceClient
    from paceline.config import Config


class Engine(StrEnum):
    """The engines by name, as the command line offers them."""

    AIOHTTP = "aiohttp"
    HTTPX = "httpx"


DEFAULT_SERVICE = "http://127.0.0.1:8080"
USAGE = 2
INTERRUPTED = 130

app = typer.Typer(
    name="paceline",
    help="Call rate-limited HTTP APIs in bulk: as fast as each allows and no faster, one outcome for every item.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

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
    int | None, typer.Option("--max-concurrency", metavar="N", min=1, help="At most N calls in flight.")
]


def _show_version(asked: bool) -> None:
    if asked:
        from paceline import __version__

        typer.echo(f"paceline {__version__}")
        raise typer.Exit


@app.callback()
def _paceline(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command("run", short_help="Send every item of a file, one outcome a line.")
def _run(
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
        int | None, typer.Option(metavar="N", min=1, help="Try each item up to N times; 3 unless configured.")
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
    from paceline.cli.local import LocalRun
    from paceline.cli.options import read_batch
    from paceline.cli.remote import RemoteRun
    from paceline.cli.run import Files, Way, run

    batch = read_batch(
        strategy=strategy,
        max_concurrency=max_concurrency,
        rate=rate,
        burst=burst,
        deadline=deadline,
        priority=priority,
        attempts=attempts,
    )
    client = _service(server, key, key_file, config)
    configured = _config(config) if client is None else None

    def open_way() -> Way:
        if client is not None:
            return RemoteRun(client, batch, lookahead)
        assert configured is not None
        return LocalRun(configured, batch)

    raise typer.Exit(run(Files(file, output, resume), open_way, lookahead))


@app.command("plan", short_help="What sending a file would take, told without sending it.")
def _plan(
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
    from paceline.cli.options import UsageProblem, read_batch, read_duration
    from paceline.cli.plan import plan

    batch = read_batch(
        strategy=strategy, max_concurrency=max_concurrency, rate=rate, burst=burst, deadline=deadline, priority=priority
    )
    client = _service(server, key, key_file, config)
    if client is not None and call is not None:
        raise UsageProblem("--call: the service at --server knows how long its calls take; remove it")
    call_s = None if call is None else read_duration("--call", call)
    raise typer.Exit(plan(file, batch, client or _config(config), lookahead, call_s))


@app.command("compare", short_help="The same request under every strategy, measured.")
def _compare(
    url: Annotated[str, typer.Argument(metavar="URL", help="What to GET.")],
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="How many requests under each strategy.")] = 200,
    strategies: Annotated[
        list[Strategy] | None, typer.Option("--strategies", help="Only this one; can be given several times.")
    ] = None,
    engines: Annotated[
        list[Engine] | None, typer.Option("--engines", help="On this engine; can be given several times.")
    ] = None,
    max_concurrency: MaxConcurrency = None,
    rate: RateText = None,
    burst: Burst = None,
    unpaced: Annotated[
        bool, typer.Option("--unpaced", help="The classic four as if no limit were known; adaptive keeps to it.")
    ] = False,
    attempts: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Try each request up to N times; 3 unless configured.")
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
    from paceline.cli.compare import Wanted, compare
    from paceline.cli.options import UsageProblem, read_rate

    if burst is not None and rate is None:
        raise UsageProblem("--burst: belongs to a --rate; add one, as in --rate 50/1s")
    wanted = Wanted(
        url=url,
        n=n,
        strategies=strategies,
        engines=None if engines is None else [engine.value for engine in engines],
        max_concurrency=max_concurrency,
        rate=None if rate is None else read_rate(rate, burst),
        unpaced=unpaced,
        attempts=attempts,
    )
    raise typer.Exit(compare(wanted, config, _service(server, key, key_file, config)))


@app.command("demo", short_help="Watch five strategies fetch a rate-limited API on this machine.")
def _demo(
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="How many requests under each strategy.")] = 200,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="The API's limit, in any stretch of --per.")] = 50,
    per: Annotated[str, typer.Option(metavar="TIME", help="The length of its window.")] = "1s",
) -> None:
    """Start a rate-limited HTTP API as a process of its own, fetch it with five strategies over real sockets, and
    show what each got and what the API saw. Takes about 20 seconds and leaves nothing behind.
    """
    from paceline.cli.demo import Demo, demo
    from paceline.cli.options import read_duration

    raise typer.Exit(demo(Demo(n, limit, read_duration("--per", per))))


@app.command("serve", short_help="Start the service.")
def _serve(
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
    from paceline.cli.serve import serve

    raise typer.Exit(serve(config, host, port, insecure))


upstreams = typer.Typer(
    help="How the upstreams of a running service stand; pause one, change its rate, reset it.",
    short_help="How a running service's upstreams stand; pause, retune or reset one.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(upstreams, name="upstreams")

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


@app.command("check-config", short_help="Say what is wrong with a configuration.")
def _check_config(file: Annotated[Path, typer.Argument(metavar="FILE", help="The configuration file.")]) -> None:
    """Say whether FILE can be used, and if not, everything that is wrong with it: key, problem and fix.

    Exit code: 0 it can, 1 it cannot.
    """
    from paceline.cli.check_config import check_config

    raise typer.Exit(check_config(file))


@app.command("schema", hidden=True)
def _schema(
    table: Annotated[
        bool, typer.Option("--table", help="Print the table of settings, as docs/configuration.md has it.")
    ] = False,
    renew: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Put the table in the place of the one that FILE holds.")
    ] = None,
) -> None:
    """Print the JSON schema of a configuration file, for editors; or the table of its settings."""
    from paceline.cli.check_config import print_reference, print_schema, renew_reference

    if renew is not None:
        renew_reference(renew)
    elif table:
        print_reference()
    else:
        print_schema()


def _service(server: str | None, key: str | None, key_file: Path | None, config: Path | None) -> ServiceClient | None:
    """The service to go through, if one is named; its key and our own configuration exclude each other."""
    from paceline.cli.client import ServiceClient
    from paceline.cli.options import UsageProblem, read_key

    if server is None:
        if key is not None or key_file is not None:
            raise UsageProblem("--key and --key-file: belong to a --server; name one")
        return None
    if config is not None:
        raise UsageProblem("--config: the service at --server has its own; give one of them")
    return ServiceClient(server, read_key(key, key_file))


def _config(file: Path | None) -> Config:
    import os

    from paceline.settings import read_config, read_settings

    return read_config(read_settings(config=file), os.environ)


def main() -> None:
    """Run the command; what the caller did wrong is told in a line or two, never as a traceback."""
    from paceline.cli.options import UsageProblem
    from paceline.errors import ConfigError

    try:
        app()
    except UsageProblem as error:
        typer.echo(f"paceline: {error}", err=True)
        sys.exit(USAGE)
    except ConfigError as error:
        typer.echo(error, err=True)
        sys.exit(USAGE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
