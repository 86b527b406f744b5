"""`paceline check-config`, and `paceline schema` for those who work on Paceline itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check_config(file: Annotated[Path, typer.Argument(metavar="FILE", help="The configuration file.")]) -> None:
    """Say whether FILE can be used, and if not, everything that is wrong with it: key, problem and fix.

    Exit code: 0 it can, 1 it cannot.
    """
    from paceline.cli.check_config import check_config as check

    raise typer.Exit(check(file))


def schema(
    table: Annotated[
        bool, typer.Option("--table", help="Print the table of settings, as docs/configuration.md has it.")
    ] = False,
    renew: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Put each generated table in the place of the one that FILE holds."),
    ] = None,
) -> None:
    """Print the JSON schema of a configuration file, for editors; or the table of its settings."""
    from paceline.cli.check_config import print_reference, print_schema, replace_reference_tables

    if renew is not None:
        replace_reference_tables(renew)
    elif table:
        print_reference()
    else:
        print_schema()
