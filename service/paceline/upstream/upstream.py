"""One upstream: its policy, its gate and its retry budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf

from paceline.admission.async_gate import AsyncGate
from paceline.admission.partition_key import partition_by
from paceline.admission.permit_pool import PermitPool
from paceline.admission.upstream_health import UpstreamHealth
from paceline.config import PolicyConfig, UpstreamConfig
from paceline.events import BudgetPaused, EventListener
from paceline.model import EngineName, Rate
from paceline.resilience.adaptive_limit import AdaptiveLimit
from paceline.resilience.breaker import Breaker, BreakerPolicy
from paceline.resilience.retry_budget import RetryBudget
from paceline.transport.base import Transport, TransportOptions
from paceline.transport.url import parse_url

OpenTransport = Callable[[EngineName, TransportOptions], Transport]


class Upstream:
    """One remote API with one policy, and its gate."""

    def __init__(
        self,
        name: str,
        policy: PolicyConfig,
        transport_options: TransportOptions,
        socket_pool: PermitPool,
        emit: EventListener,
        open_transport: OpenTransport,
    ) -> None:
        self.name = name
        self._socket_pool = socket_pool
        self._open_transport = open_transport
        self.retry_budget = RetryBudget(policy.retry.budget_ratio, policy.retry.budget_per_s)
        self._configure(policy, transport_options)
        self.async_gate = self._create_async_gate(
            policy.to_rates(), lambda pause_s: emit(BudgetPaused(name, pause_s)), _create_health(policy)
        )

    def _configure(self, policy: PolicyConfig, transport_options: TransportOptions) -> None:
        self.policy = policy
        self.transport_options = transport_options
        self.retry_policy = policy.to_retry_policy()
        self.base_url = parse_url(policy.base_url) if isinstance(policy, UpstreamConfig) else None
        self.path_prefix = self.base_url.target.rstrip("/") if self.base_url else ""
        auth = policy.auth if isinstance(policy, UpstreamConfig) else None
        self.auth_header = auth.as_header() if auth else None
        self.headers = policy.header_pairs()
        self.partition_key_of = partition_by(policy.partition, self.path_prefix)

    def reconfigure(self, policy: PolicyConfig, transport_options: TransportOptions) -> None:
        """Apply a new configuration; what was counted or learned, is queued or in flight stays."""
        self._configure(policy, transport_options)
        self.retry_budget.retune(policy.retry.budget_ratio, policy.retry.budget_per_s)
        gate = self.async_gate.gate
        gate.limit = _concurrency_limit(policy)
        gate.set_health(_create_health(policy), time.perf_counter())
        gate.budgets.set_declared_times(policy.transit, policy.max_pause)
        self.async_gate.retune(policy.to_rates())

    def get_transport(self, engine: EngineName | None = None) -> Transport:
        """The open engine: the upstream's own unless another is named."""
        return self._open_transport(engine or self.policy.engine, self.transport_options)

    def create_unpaced_gate(self) -> AsyncGate:
        """Create a gate with the same limit, without windows or feedback; for one run of a comparison."""
        return self._create_async_gate((), lambda _: None, None)

    def reset(self) -> None:
        """Return to the configuration and forget what was learned."""
        self.async_gate.reset(self.policy.to_rates())
        self.retry_budget.reset()

    def _create_async_gate(
        self, rates: Sequence[Rate], on_pause: Callable[[float], None], health: UpstreamHealth | None
    ) -> AsyncGate:
        return AsyncGate(
            rates,
            limit=_concurrency_limit(self.policy),
            adaptive_limit=inf if health is None else health.limit,
            transit_s=self.policy.transit,
            max_pause_s=self.policy.max_pause,
            socket_pool=self._socket_pool,
            on_pause=on_pause,
            health=health,
        )


def _concurrency_limit(policy: PolicyConfig) -> float:
    """The declared limit; `inf` where there is none."""
    return inf if policy.concurrency.limit is None else policy.concurrency.limit


def _create_health(policy: PolicyConfig) -> UpstreamHealth:
    adaptive, breaker = policy.concurrency.adaptive, policy.breaker
    return UpstreamHealth(
        Breaker(
            BreakerPolicy(
                ratio=breaker.ratio,
                min_calls=breaker.min_calls,
                window_s=breaker.window,
                open_s=breaker.open,
                max_open_s=breaker.max_open,
                trials=breaker.trials,
            )
        ),
        AdaptiveLimit(adaptive.min, adaptive.initial, adaptive.max) if policy.concurrency.limit is None else None,
    )
