"""Limits do not multiply with replicas: each keeps its share of what is declared."""

from __future__ import annotations

import pytest

from paceline.config import Config
from paceline.config.replica_share import share_for_replica
from paceline.model import Rate


def one_of(replicas: int, **policy: object) -> object:
    config = Config.model_validate({"upstreams": {"api": {"base_url": "https://api.example", **policy}}})
    return share_for_replica(config, replicas).upstreams["api"]


@pytest.mark.parametrize(
    ("declared", "replicas", "share"),
    [
        ({"limit": 80, "per": "1m", "burst": 10}, 4, Rate(20, 60, 2.5)),
        ({"limit": 50, "per": "1s"}, 3, Rate(50 / 3, 1, 50 / 3)),
        ({"limit": 2, "per": "1s"}, 8, Rate(1, 4, 1)),
        ({"limit": 80, "per": "1m", "burst": 2}, 4, Rate(20, 60, 1)),
        ({"limit": 9, "per": "1s"}, 1, Rate(9, 1, 9)),
    ],
)
def test_a_replica_keeps_its_share_of_a_rate(declared: dict[str, object], replicas: int, share: Rate) -> None:
    (rate,) = one_of(replicas, rate=[declared]).to_rates()
    assert (rate.limit, rate.per_s, rate.burst) == pytest.approx((share.limit, share.per_s, share.burst))


@pytest.mark.parametrize(("limit", "replicas", "share"), [(50, 4, 12), (3, 5, 1), (7, 1, 7)])
def test_a_replica_keeps_its_share_of_the_concurrency(limit: int, replicas: int, share: int) -> None:
    assert one_of(replicas, concurrency={"limit": limit}).concurrency.limit == share


def test_defaults_are_shared_too() -> None:
    config = share_for_replica(Config.model_validate({"defaults": {"rate": [{"limit": 10, "per": "1s"}]}}), 5)
    assert config.policy_for_undeclared.to_rates() == (Rate(2, 1, 2),)


@pytest.mark.parametrize("replicas", range(1, 30))
def test_all_shares_together_never_pass_the_limit(replicas: int) -> None:
    (rate,) = one_of(replicas, rate=[{"limit": 7, "per": "1s"}]).to_rates()
    assert replicas * int(rate.limit) / rate.per_s <= 7 + 1e-9
