"""The order of the layers, which is defined here alone.

| strategy       | layers, outermost first                                                          |
|----------------|----------------------------------------------------------------------------------|
| `sequential`   | deadline > retry > admission > attempt timeout > send (one item after another)    |
| `concurrent`   | deadline > retry > admission > attempt timeout > send                             |
| `bounded`      | deadline > retry > semaphore > admission > attempt timeout > send                 |
| `token_bucket` | deadline > retry > semaphore > token bucket > admission > attempt timeout > send  |
| `adaptive`     | deadline > retry > admission > attempt timeout > send                             |

Retry stands outside every permit, so that an item in backoff holds nothing; the token is the last wait before
admission.
"""

from __future__ import annotations

from paceline.admission.flow_table import FlowTable
from paceline.admission.lane import Lane
from paceline.admission.layer import AdmissionLayer
from paceline.admission.permit_pool import PermitPool
from paceline.events import EventListener
from paceline.model import Batch, Send, Strategy
from paceline.rate.token_bucket import TokenBucketLayer
from paceline.resilience.attempt_timeout import AttemptTimeoutLayer
from paceline.resilience.deadline import DeadlineLayer
from paceline.resilience.layer import Layer, compose
from paceline.resilience.retry import RetryLayer
from paceline.resilience.semaphore import SemaphoreLayer
from paceline.upstream.upstream import Upstream

DEFAULT_CONCURRENCY = 20


def create_batch_layers(batch: Batch) -> list[Layer]:
    """The layers that belong to the batch as a whole, shared by its pipelines to every upstream."""
    layers: list[Layer] = []
    cap = concurrency_cap_of(batch)
    if cap is not None:
        layers.append(SemaphoreLayer(cap))
    if batch.strategy is Strategy.TOKEN_BUCKET:
        assert batch.rate is not None
        layers.append(TokenBucketLayer(batch.rate))
    return layers


def concurrency_cap_of(batch: Batch) -> int | None:
    """The limit of the batch's own semaphore, if its strategy has one."""
    if batch.strategy in (Strategy.BOUNDED, Strategy.TOKEN_BUCKET):
        return batch.max_concurrency or DEFAULT_CONCURRENCY
    return None


def lane_of(batch: Batch) -> Lane:
    """The lane that the batch waits in: learned limits bind only the adaptive one."""
    return Lane.ADAPTIVE if batch.strategy is Strategy.ADAPTIVE else Lane.CLASSIC


def create_permit_pool(batch: Batch) -> PermitPool | None:
    """An `adaptive` batch's own cap and rate, which its gates enforce."""
    if batch.strategy is not Strategy.ADAPTIVE or (batch.max_concurrency is None and batch.rate is None):
        return None
    return PermitPool(batch.max_concurrency or float("inf"), batch.rate)


def create_pipeline(
    batch: Batch, upstream: Upstream, batch_layers: list[Layer], permit_pool: PermitPool | None, emit: EventListener
) -> Send:
    """Create the pipeline of one batch to one upstream."""
    lane = lane_of(batch)
    async_gate = upstream.create_unpaced_gate() if batch.unpaced else upstream.async_gate
    timeout = upstream.policy.timeout
    policy_timeout_s = min(timeout.attempt, timeout.item)
    flow_table = FlowTable(async_gate.gate, lane, batch.priority, batch.tenant, permit_pool, upstream.partition_key_of)
    layers: list[Layer] = [
        DeadlineLayer(lambda: async_gate.gate.paused),
        RetryLayer(upstream.name, upstream.retry_budget, emit),
        *batch_layers,
        AdmissionLayer(
            async_gate, flow_table, batch.strategy, upstream.name, upstream.policy.dialect, policy_timeout_s, emit
        ),
        AttemptTimeoutLayer(),
    ]
    return compose(layers, upstream.get_transport(batch.engine).send)
