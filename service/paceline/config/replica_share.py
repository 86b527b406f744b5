"""One replica's share of the declared limits: without a shared store they must not multiply with replicas."""

from __future__ import annotations

from typing import TypeVar

from paceline.config.limits import RateWindowConfig
from paceline.config.policy import PolicyConfig
from paceline.config.root import Config

P = TypeVar("P", bound=PolicyConfig)


def share_for_replica(config: Config, replicas: int) -> Config:
    """The configuration of one of N replicas: 1/N of every declared rate and concurrency limit."""
    if replicas == 1:
        return config
    upstreams = {name: _share_policy(policy, replicas) for name, policy in config.upstreams.items()}
    return config.model_copy(update={"upstreams": upstreams, "defaults": _share_policy(config.defaults, replicas)})


def _share_policy(policy: P, replicas: int) -> P:
    limit = policy.concurrency.limit
    concurrency = policy.concurrency
    if limit is not None:
        concurrency = concurrency.model_copy(update={"limit": max(1, limit // replicas)})
    rate = tuple(_share_window(window, replicas) for window in policy.rate)
    return policy.model_copy(update={"rate": rate, "concurrency": concurrency})


def _share_window(window: RateWindowConfig, replicas: int) -> RateWindowConfig:
    limit = window.limit / replicas
    if limit < 1:
        # A longer window instead: one that never allows a whole request would never let one go.
        return window.model_copy(update={"limit": 1.0, "per": window.per / limit, "burst": 1.0})
    burst = None if window.burst is None else max(1.0, window.burst / replicas)
    return window.model_copy(update={"limit": limit, "burst": burst})
