"""`make bench`: every comparison, one after another; or those named: `python -m bench drain admission_cost`."""

from __future__ import annotations

import sys

from rich.console import Console

from bench import admission_cost, cpu_per_item, drain, limit_discovery, plan

SECTIONS = {
    "cpu_per_item": cpu_per_item.run,
    "drain": drain.run,
    "admission_cost": admission_cost.run,
    "plan": plan.run,
    "limit_discovery": limit_discovery.run,
}

if __name__ == "__main__":
    console = Console(width=110)
    for name in sys.argv[1:] or SECTIONS:
        SECTIONS[name](console)
