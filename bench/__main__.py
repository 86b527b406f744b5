"""`make bench`: every comparison, one after another."""

from __future__ import annotations

from rich.console import Console

from bench import fan_out

if __name__ == "__main__":
    fan_out.run(Console(width=110))
