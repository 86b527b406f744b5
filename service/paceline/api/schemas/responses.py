"""Response bodies that only the API has; items, outcomes, plans and upstream states are types of lower layers.

The text below a field is its description in the OpenAPI document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta, Struct
from pydantic import with_config

from paceline.batch.compare import StrategyResult
from paceline.model import Outcome, Strategy, Summary
from paceline.upstream.snapshot import UpstreamState


class BatchResponse(Struct, frozen=True):
    """The outcomes of a batch."""

    batch_id: Annotated[str, Meta(description="Identifier of the batch, as the service's log has it.")]
    strategy: Annotated[Strategy, Meta(description="Strategy that sent the items.")]
    elapsed_ms: Annotated[float, Meta(description="Milliseconds from the start of the batch to its last outcome.")]
    summary: Annotated[Summary, Meta(description="The outcomes in numbers.")]
    responses: Annotated[list[Outcome], Meta(description="One outcome for each item, in the order of `requests`.")]


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class StrategyParameter:
    """A field of the batch that a strategy uses."""

    name: str
    """Name of the field."""
    required: bool
    """Whether the batch must give it."""
    default: int | None
    """Value that is used if the batch gives none; null if there is none."""
    description: str
    """What the field sets."""


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class StrategyDescription:
    """One strategy."""

    name: Strategy
    """Name of the strategy, as in `strategy` of a batch."""
    default: bool
    """True for the strategy that is used if a batch names none."""
    description: str
    """What the strategy does."""
    layers: list[str]
    """Layers that each item passes, outermost first."""
    parameters: list[StrategyParameter]
    """Fields of the batch that the strategy uses."""


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class StrategyList:
    """Every strategy there is."""

    strategies: list[StrategyDescription]
    """The strategies, the default one first."""


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class UpstreamList:
    """Every upstream that the caller may see."""

    upstreams: list[UpstreamState]
    """The upstreams, in the order of the configuration."""


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class CompareResponse:
    """The results of a comparison."""

    upstream: str
    """Upstream that the request went to; `other` for hosts that are not declared."""
    n: int
    """How often each strategy sent the request."""
    unpaced: bool
    """Whether the strategies but `adaptive` ran outside the upstream's declared windows."""
    results: list[StrategyResult]
    """One result for each engine and strategy, in the order in which they ran."""


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class ClassicResponse:
    """The result of a classic form."""

    message: str
    """How many requests succeeded and how long all of them took, for people."""
    status_codes: list[int]
    """Status of each response, in request order; 0 stands for a request that got no response."""


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True, slots=True)
class HealthResponse:
    """State of the service."""

    status: Literal["alive", "ready", "not_ready"]
    """`alive` while the process runs; `ready` if batches are accepted, `not_ready` at start and during a shutdown."""
