"""The order of the layers, written here and nowhere else.

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

from paceline.admission.allowance import Allowance
from paceline.admission.layer import Admission
from paceline.admission.lineup import Lane
from paceline.admission.partition import Places
from paceline.events import Listener
from paceline.model import Batch, Send, Strategy
from paceline.rate.token_bucket import TokenBucket
from paceline.resilience.deadline import AttemptLimit, Deadline
from paceline.resilience.layer import Layer, stack
from paceline.resilience.retry import Retry
from paceline.resilience.semaphore import ConcurrencyCap
from paceline.upstream.registry import Upstream

DEFAULT_CONCURRENCY = 20


def own_layers(batch: Batch) -> list[Layer]:
    """The layers that belong to the batch as a whole, shared by its way through every upstream."""
    layers: list[Layer] = []
    cap = own_cap(batch)
    if cap is not None:
        layers.append(ConcurrencyCap(cap))
    if batch.strategy is Strategy.TOKEN_BUCKET:
        assert batch.rate is not None
        layers.append(TokenBucket(batch.rate))
    return layers


def own_cap(batch: Batch) -> int | None:
    """The limit of the batch's own semaphore, where its strategy has one."""
    if batch.strategy in (Strategy.BOUNDED, Strategy.TOKEN_BUCKET):
        return batch.max_concurrency or DEFAULT_CONCURRENCY
    return None


def lane_of(batch: Batch) -> Lane:
    """Whether what was learned binds it."""
    return Lane.ADAPTIVE if batch.strategy is Strategy.ADAPTIVE else Lane.CLASSIC


def own_allowance(batch: Batch) -> Allowance | None:
    """An `adaptive` batch's own cap and rate, which its gates keep."""
    if batch.strategy is not Strategy.ADAPTIVE or (batch.max_concurrency is None and batch.rate is None):
        return None
    return Allowance(batch.max_concurrency or float("inf"), batch.rate)


def pipeline(batch: Batch, upstream: Upstream, own: list[Layer], allowance: Allowance | None, tell: Listener) -> Send:
    """One batch's way to one upstream."""
    lane = lane_of(batch)
    admitter = upstream.unpaced() if batch.unpaced else upstream.admitter
    timeout = upstream.policy.timeout
    usual_s = min(timeout.attempt, timeout.item)
    places = Places(admitter.gate, lane, batch.priority, batch.tenant, allowance, upstream.key_of)
    layers: list[Layer] = [
        Deadline(lambda: admitter.gate.paused),
        Retry(upstream.name, upstream.retry_budget, tell),
        *own,
        Admission(admitter, places, batch.strategy, upstream.name, upstream.policy.dialect, usual_s, tell),
        AttemptLimit(),
    ]
    return stack(layers, upstream.transport(batch.engine).send)
