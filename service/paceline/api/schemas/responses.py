"""Response bodies that only the API has; items, outcomes, plans and upstream states are types of lower layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from paceline.batch.compare import StrategyResult
from paceline.model import Outcome, Strategy, Summary
from paceline.upstream.snapshot import UpstreamState


class BatchResponse(Struct, frozen=True):
    """What `POST /v1/batch` gives, in request order."""

    batch_id: str
    strategy: Strategy
    elapsed_ms: float
    summary: Summary
    responses: list[Outcome]


@dataclass(frozen=True, slots=True)
class StrategyParameter:
    """A field of the batch that the strategy listens to."""

    name: str
    required: bool
    default: int | None
    description: str


@dataclass(frozen=True, slots=True)
class StrategyDescription:
    """One strategy; `layers` is what each attempt passes, outermost first."""

    name: Strategy
    default: bool
    description: str
    layers: list[str]
    parameters: list[StrategyParameter]


@dataclass(frozen=True, slots=True)
class StrategyList:
    """What `GET /v1/strategies` gives."""

    strategies: list[StrategyDescription]


@dataclass(frozen=True, slots=True)
class UpstreamList:
    """What `GET /v1/upstreams` gives."""

    upstreams: list[UpstreamState]


@dataclass(frozen=True, slots=True)
class CompareResponse:
    """What `POST /v1/compare` gives: a line for each strategy (and engine), in the order they ran."""

    upstream: str
    n: int
    unpaced: bool
    results: list[StrategyResult]


@dataclass(frozen=True, slots=True)
class ClassicResponse:
    """What the classic forms give, in request order; 0 stands for a request without an answer."""

    message: str
    status_codes: list[int]


@dataclass(frozen=True, slots=True)
class HealthResponse:
    """What health and readiness give."""

    status: Literal["alive", "ready", "not_ready"]
