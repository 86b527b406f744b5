"""What has been copied of several gates so far, so that what they share stays shared among the copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paceline.rate.window import Holds, Window

if TYPE_CHECKING:
    from paceline.admission.allowance import Allowance
    from paceline.admission.lineup import BatchFlow, Lineup
    from paceline.admission.queue import Share


class Copies:
    """Each original with its copy."""

    __slots__ = ("allowances", "flows", "holds", "lineups", "shares", "windows")

    def __init__(self) -> None:
        self.allowances: dict[Allowance, Allowance] = {}
        self.flows: dict[BatchFlow, BatchFlow] = {}
        self.holds: Holds = {}
        self.lineups: dict[Lineup, Lineup] = {}
        self.shares: dict[Share, Share] = {}
        self.windows: dict[Window, Window] = {}
