"""The error of a command that cannot run as it was called."""

from __future__ import annotations

from typing import IO, Any

import typer

EXIT_USAGE_ERROR = 2


class UsageError(typer.BadParameter):
    """A command cannot run as it was called; the message says why and what to write instead.

    Typer shows it and ends the process with `EXIT_USAGE_ERROR`. The base is the one usage error that typer exports.
    """

    exit_code = EXIT_USAGE_ERROR

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message in one line: it names the flag or file itself, so the usage text adds nothing."""
        typer.echo(f"paceline: {self.message}", file=file, err=file is None)
