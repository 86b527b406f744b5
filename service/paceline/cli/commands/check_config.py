"""`paceline check-config`."""

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
