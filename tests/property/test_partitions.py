"""Partitions share permits and nothing else."""

from __future__ import annotations

import pytest

from paceline.admission.lane import Lane
from paceline.admission.partition_key import partition_by
from paceline.model import Exchange, Priority, Rate, Receipt, Request, RetryPolicy, Url, Verdict
from support.gate_simulation import GateSimulation, StrictUpstream


def simulation_without_an_upstream(rate: Rate) -> GateSimulation:
    """Partitions have a limit each, so the strict upstream of one limit does not apply."""
    return GateSimulation([rate], upstream=StrictUpstream([]))


def test_a_queue_in_one_partition_costs_another_nothing() -> None:
    simulation = simulation_without_an_upstream(Rate(10, 1.0, 1))
    busy = simulation.open_flow(key="busy")
    for _ in range(10_000):
        simulation.offer(busy)
    simulation.run(until=simulation.now + 3)
    assert simulation.offer(simulation.open_flow(key="quiet")).granted_at == simulation.now


def test_each_partition_has_the_whole_limit() -> None:
    simulation = simulation_without_an_upstream(Rate(10, 1.0, 1))
    flows = [simulation.open_flow(key=f"k{n}") for n in range(5)]
    for flow in flows:
        for _ in range(50):
            simulation.offer(flow)
    simulation.run(until=simulation.now + 3.05)
    assert [sum(w.flow is flow for _, w in simulation.granted) for flow in flows] == [31] * 5


def test_free_permits_go_in_turn_to_the_partitions_of_a_class() -> None:
    simulation = GateSimulation([], limit=2, service_delay=lambda: 0.1)
    flows = [simulation.open_flow(key=f"k{n}") for n in range(4)]
    for flow in flows:
        for _ in range(50):
            simulation.offer(flow)
    simulation.run(until=simulation.now + 5.01)
    served = [sum(w.flow is flow for _, w in simulation.granted) for flow in flows]
    assert max(served) - min(served) <= 2  # the first to come found two free permits


def test_free_permits_go_to_the_classes_a_hundred_to_ten_to_one_across_partitions() -> None:
    simulation = GateSimulation([], limit=1, service_delay=lambda: 0.001)
    flows = {priority: simulation.open_flow(priority, key=priority.value) for priority in Priority}
    for flow in flows.values():
        for _ in range(2_000):
            simulation.offer(flow)
    simulation.run(until=simulation.now + 1.11)
    shares = {priority: sum(w.flow is flow for _, w in simulation.granted) for priority, flow in flows.items()}
    assert shares[Priority.INTERACTIVE] / shares[Priority.NORMAL] == pytest.approx(10, rel=0.1)
    assert shares[Priority.NORMAL] / shares[Priority.BULK] == pytest.approx(10, rel=0.25)


def test_a_throttle_pauses_its_own_partition_only() -> None:
    simulation = GateSimulation([], write_delay=lambda: 1e9)
    one, other = simulation.open_flow(key="one"), simulation.open_flow(key="other")
    waiter = simulation.offer(one)
    simulation.gate.mark_written(waiter, simulation.now)
    simulation.gate.settle(waiter, Verdict.THROTTLED, simulation.now, answered_at=simulation.now, retry_after_s=60.0)
    assert simulation.offer(one).granted_at is None
    assert simulation.offer(other).granted_at == simulation.now


def test_a_partition_that_is_held_again_and_again_is_remembered_once() -> None:
    simulation = simulation_without_an_upstream(Rate(1, 100.0, 1))
    flows = {key: simulation.open_flow(key=key) for key in ("soon", "later")}
    for flow in flows.values():
        simulation.offer(flow)
        simulation.run(until=simulation.now + 50)
    simulation.offer(flows["soon"])
    for _ in range(1_000):
        simulation.withdraw(simulation.offer(flows["later"]))
    assert len(simulation.gate._run_queue._blocked) < 200
    assert simulation.offer(flows["later"]).granted_at is None
    simulation.run()
    assert len(simulation.granted) == 4


def test_tenants_share_a_budget_by_their_weights() -> None:
    simulation = GateSimulation([Rate(100, 1.0, 1)])
    flows = [simulation.open_flow(tenant="light", weight=1.0), simulation.open_flow(tenant="heavy", weight=3.0)]
    for flow in flows:
        for _ in range(1_000):
            simulation.offer(flow)
    simulation.run(until=simulation.now + 4.005)
    light, heavy = (sum(w.flow is flow for _, w in simulation.granted) for flow in flows)
    assert heavy == pytest.approx(3 * light, abs=3)


def test_bulk_at_its_share_of_the_permits_does_not_hide_others_of_the_same_partition() -> None:
    simulation = GateSimulation([], limit=10, service_delay=lambda: 100.0)
    bulk, normal = simulation.open_flow(Priority.BULK), simulation.open_flow(Priority.NORMAL)
    for _ in range(30):
        simulation.offer(bulk)
    assert simulation.gate.in_flight == 9
    assert simulation.offer(normal).granted_at == simulation.now


@pytest.mark.parametrize("keys", ["aa", "ab"])
@pytest.mark.parametrize("limit", [2, 20])
def test_bulk_has_its_turns_while_others_could_take_every_permit(limit: int, keys: str) -> None:
    simulation = GateSimulation([], limit=limit, service_delay=lambda: simulation.random.uniform(0.1, 0.2))
    normal, bulk = simulation.open_flow(key=keys[0]), simulation.open_flow(Priority.BULK, key=keys[1])
    for flow in (normal, bulk):
        for _ in range(6_000):
            simulation.offer(flow)
    simulation.run(until=simulation.now + 30)
    shares = {flow: sum(w.flow is flow for _, w in simulation.granted) for flow in (normal, bulk)}
    assert shares[normal] / shares[bulk] == pytest.approx(10, rel=0.25)


def test_bulk_that_takes_long_leaves_a_partition_its_turns_for_others() -> None:
    takes_s = [60.0]
    simulation = GateSimulation([], limit=2, service_delay=lambda: takes_s[0])
    slow = simulation.open_flow(Priority.BULK, key="one")
    flows = [simulation.open_flow(key=key) for key in ("one", "other")]
    for _ in range(30):
        simulation.offer(slow)
    simulation.run(until=simulation.now)
    assert simulation.gate.in_flight == 1
    takes_s[0] = 0.1
    for _ in range(200):
        for flow in flows:
            simulation.offer(flow)
    simulation.run(until=simulation.now + 10)
    served = [sum(w.flow is flow for _, w in simulation.granted) for flow in flows]
    assert min(served) > 40


def test_a_classic_and_an_adaptive_batch_take_turns() -> None:
    simulation = GateSimulation([Rate(100, 1.0, 1)])
    flows = [simulation.open_flow(lane=lane) for lane in Lane]
    for flow in flows:
        for _ in range(300):
            simulation.offer(flow)
    simulation.run(until=simulation.now + 4)
    counts = [sum(w.flow is flow for _, w in simulation.granted) for flow in flows]
    assert counts[0] == pytest.approx(counts[1], rel=0.1)


def test_partitions_are_bounded_and_only_those_that_remember_nothing_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("paceline.admission.budget_table._MAX_BUDGETS", 3)
    simulation = simulation_without_an_upstream(Rate(10, 1.0, 10))
    first = simulation.open_flow(key="first")
    for key in ("first", "second", "third"):
        simulation.offer(simulation.open_flow(key=key))
    with pytest.raises(LookupError, match="3 partitions are busy"):
        simulation.open_flow(key="fourth")
    simulation.run(until=simulation.now + 2)
    simulation.dispatch()
    simulation.open_flow(key="fourth")
    assert first.lane_queue.budget.is_evicted
    assert len(simulation.gate.budgets) == 3


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ("upstream", "upstream"),
        ("host", "host:api.example.com"),
        ("path:1", "path:/repos"),
        ("path:2", "path:/repos/python"),
        ("path:9", "path:/repos/python/cpython"),
        ("header:authorization", "header:authorization:5a9c9cd6bd0a"),
        ("header:x-team", "header:x-team:none"),
    ],
)
def test_the_key_of_a_request(rule: str, key: str) -> None:
    request = Request(
        method="GET",
        url=Url("https", "api.example.com", 443, "/v1/repos/python/cpython?page=2"),
        headers=(("authorization", "Bearer s3cret"),),
        body=b"",
        deadline=0.0,
        receipt=Receipt(),
        exchange=Exchange(),
        retry=RetryPolicy(),
    )
    found = partition_by(rule, "/v1")(request)
    assert "s3cret" not in found
    if rule == "header:authorization":
        assert found.startswith("header:authorization:")
        assert len(found) == len(key)
    else:
        assert found == key
