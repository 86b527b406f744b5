"""The two lanes before a budget, and the weights of the priority classes in each."""

from __future__ import annotations

from enum import IntEnum

from paceline.model import Priority

PRIORITY_WEIGHTS = {Priority.INTERACTIVE: 100.0, Priority.NORMAL: 10.0, Priority.BULK: 1.0}


class Lane(IntEnum):
    """Which limits bind a call: those that the operator declared (both lanes), or also those that were learned."""

    CLASSIC = 0
    ADAPTIVE = 1
