"""`paceline demo`."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="How many requests under each strategy.")] = 200,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="The API's limit, in any stretch of --per.")] = 50,
    per: Annotated[str, typer.Option(metavar="TIME", help="The length of its window.")] = "1s",
) -> None:
    """Start a rate-limited HTTP API as a process of its own, fetch it with five strategies over real sockets, and
    show what each got and what the API saw. Takes about 20 seconds and leaves nothing behind.
    """
    from paceline.cli.flag_parsing import parse_duration_flag
    from paceline.cli.run_demo import run_demo
    from paceline.demo.scene import DemoOptions

    raise typer.Exit(run_demo(DemoOptions(n, limit, parse_duration_flag("--per", per))))
