"""The command `paceline`: every command, and the exit codes of mistakes and interruptions.

A command imports what it needs when it runs, so that `--help` and small commands start at once.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from paceline.cli.commands.check_config import check_config
from paceline.cli.commands.compare import compare
from paceline.cli.commands.demo import demo
from paceline.cli.commands.plan import plan
from paceline.cli.commands.run import run
from paceline.cli.commands.schema import schema
from paceline.cli.commands.serve import serve
from paceline.cli.commands.upstreams import upstreams
from paceline.cli.usage_error import EXIT_USAGE_ERROR

EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="paceline",
    help="Call rate-limited HTTP APIs in bulk: as fast as each allows and no faster, one outcome for every item.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(requested: bool) -> None:
    if requested:
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


app.command("run", short_help="Send every item of a file, one outcome a line.")(run)
app.command("plan", short_help="What sending a file would take, told without sending it.")(plan)
app.command("compare", short_help="The same request under every strategy, measured.")(compare)
app.command("demo", short_help="Watch five strategies fetch a rate-limited API on this machine.")(demo)
app.command("serve", short_help="Start the service.")(serve)
app.add_typer(upstreams, name="upstreams")
app.command("check-config", short_help="Say what is wrong with a configuration.")(check_config)
app.command("schema", hidden=True)(schema)


def _exit_on_signal(signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signum)


def main() -> None:
    """Run the command; a mistake of the caller becomes a message of a few lines, never a traceback."""
    from paceline.errors import ConfigError

    if os.getpid() == 1:  # the first of a container gets only the signals that it asked for
        signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        app()
    except ConfigError as error:
        typer.echo(error, err=True)
        sys.exit(EXIT_USAGE_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
