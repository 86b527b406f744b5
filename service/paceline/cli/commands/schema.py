"""`paceline schema`, for those who work on Paceline itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    from paceline.cli.docs_tables.renew import print_reference, print_schema, replace_reference_tables

    if renew is not None:
        replace_reference_tables(renew)
    elif table:
        print_reference()
    else:
        print_schema()
