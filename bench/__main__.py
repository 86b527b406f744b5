"""`make bench`: every comparison, one after another; or those named: `python -m bench drain grant`."""

from __future__ import annotations

import sys

from rich.console import Console

from bench import drain, fan_out, grant, learning, plan

SECTIONS = {
    "fan_out": fan_out.run,
    "drain": drain.run,
    "grant": grant.run,
    "plan": plan.run,
    "learning": learning.run,
}

if __name__ == "__main__":
    console = Console(width=110)
    for name in sys.argv[1:] or SECTIONS:
        SECTIONS[name](console)
