"""What has been copied of several gates so far, so that what they share stays shared among the copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paceline.rate.window import HoldMemo, RateWindow

if TYPE_CHECKING:
    from paceline.admission.fair_queue import FairNode
    from paceline.admission.lane_queue import BatchFlow, LaneQueue
    from paceline.admission.permit_pool import PermitPool


class CopyMemo:
    """Each original with its copy."""

    __slots__ = ("flows", "holds", "lane_queues", "nodes", "pools", "windows")

    def __init__(self) -> None:
        self.pools: dict[PermitPool, PermitPool] = {}
        self.flows: dict[BatchFlow, BatchFlow] = {}
        self.holds: HoldMemo = {}
        self.lane_queues: dict[LaneQueue, LaneQueue] = {}
        self.nodes: dict[FairNode, FairNode] = {}
        self.windows: dict[RateWindow, RateWindow] = {}
