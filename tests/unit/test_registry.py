"""Which upstream a URL or a name belongs to, what stays when the configuration changes, and how many are kept."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Mapping
from itertools import pairwise
from typing import Any
from unittest import mock
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.admission.gate import Gate
from paceline.admission.lane import Lane
from paceline.admission.lane_queue import Waiter
from paceline.app import Service
from paceline.config import Config
from paceline.errors import ConfigError, EgressDenied, InvalidRequest, Overloaded, UnknownUpstream
from paceline.model import ONE_REQUEST, Batch, Item, Priority, Rate, Receipt, Verdict
from paceline.upstream.registry import UNDECLARED_UPSTREAM_NAME
from paceline.upstream.snapshot import state_of
from support.hypothesis_profiles import examples
from support.in_memory_upstream import (
    InMemoryUpstream,
    in_memory_service,
    items,
    never_respond,
    outcome_codes,
    run_batch,
)
from support.virtual_clock import virtual_time
from tools.scripted_upstream import ScriptedUpstream

NESTED = {
    "root": {"base_url": "https://a.example"},
    "v1": {"base_url": "https://a.example/v1"},
    "deep": {"base_url": "https://a.example/v1/deep/"},
    "again": {"base_url": "https://a.example/v1/deep"},
    "port": {"base_url": "https://a.example:8443/"},
}


def config(upstreams: Mapping[str, Any], **more: Any) -> Config:
    return Config.model_validate({"upstreams": upstreams, **more})


@pytest.mark.parametrize(
    ("url", "name", "target"),
    [
        ("https://a.example", "root", "/"),
        ("https://A.EXAMPLE:443/x", "root", "/x"),
        ("https://a.example/v1", "v1", "/v1"),
        ("https://a.example/v1?q=/v1/deep", "v1", "/v1?q=/v1/deep"),
        ("https://a.example/v1/", "v1", "/v1/"),
        ("https://a.example/v1x", "root", "/v1x"),
        ("https://a.example/V1/x", "root", "/V1/x"),
        ("https://a.example/v1/deep", "deep", "/v1/deep"),
        ("https://a.example/v1/deep/x/y", "deep", "/v1/deep/x/y"),
        ("https://a.example/v1/deeper", "v1", "/v1/deeper"),
        ("https://a.example/v1/deep/../x", "v1", "/v1/x"),
        ("https://a.example/v1/%2e%2E/x", "root", "/x"),
        ("https://a.example/v1/..%2fx", "root", "/x"),
        ("https://a.example/x/../v1/./y?q=..", "v1", "/v1/y?q=.."),
        ("https://a.example:8443/v1", "port", "/v1"),
        ("http://a.example/v1", UNDECLARED_UPSTREAM_NAME, "/v1"),
        ("https://b.a.example/v1", UNDECLARED_UPSTREAM_NAME, "/v1"),
    ],
)
def test_a_url_belongs_to_its_longest_prefix_by_origin_and_segment(url: str, name: str, target: str):
    with in_memory_service(InMemoryUpstream(), upstreams=NESTED) as service:
        upstream, found = service.registry.resolve_url(url)
    assert (upstream.name, found.target) == (name, target)


@pytest.mark.parametrize(
    ("name", "path", "target"),
    [
        ("v1", "/x", "/v1/x"),
        ("v1", "x/y", "/v1/x/y"),
        ("v1", "", "/v1"),
        ("v1", "/", "/v1/"),
        ("v1", "?q=1", "/v1?q=1"),
        ("v1", "/x?q=../..", "/v1/x?q=../.."),
        ("v1", "/x#part", "/v1/x"),
        ("v1", "/a b", "/v1/a%20b"),
        ("deep", "", "/v1/deep/"),
        ("deep", "?q=1", "/v1/deep/?q=1"),
        ("deep", "/x", "/v1/deep/x"),
        ("root", "", "/"),
        ("root", "//x", "//x"),
        ("v1", "/../x", "/v1/x"),
        ("v1", "/%2e%2e/x", "/v1/x"),
        ("v1", "/a/../../../x", "/v1/x"),
        ("v1", "/..%2f..%5cx", "/v1/x"),
        ("v1", "..", "/v1/"),
        ("v1", "..#", "/v1/"),
        ("v1", "/../..#/x", "/v1/"),
        ("v1", "/%2e%2e#?", "/v1/"),
        ("v1", "#part", "/v1"),
        ("v1", "@evil.example/", "/v1/@evil.example/"),
        ("v1", ":1@evil.example/", "/v1/:1@evil.example/"),
    ],
)
def test_a_path_is_appended_to_its_upstreams_base_url_and_cannot_leave_it(name: str, path: str, target: str):
    with in_memory_service(InMemoryUpstream(), upstreams=NESTED) as service:
        upstream, url = service.registry.resolve_path(name, path)
    assert (upstream.name, url.host, url.target) == (name, "a.example", target)


PIECES = ["/", "..", ".", "%2e", "%2E%2e", "%2f", "%5C", "x", "", "?", "#", "@", ":", "a b", "é", "%"]


@examples(150)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_no_path_whatever_leaves_its_upstream_even_for_a_server_that_decodes_first(path: str):
    with in_memory_service(InMemoryUpstream(), upstreams=NESTED) as service:
        upstream, url = service.registry.resolve_path("v1", path)
    assert (upstream.name, url.origin) == ("v1", "https://a.example")
    decoded = unquote(url.target.partition("?")[0]).replace("\\", "/")
    depth = 0
    for segment in decoded.removeprefix("/v1").split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(segment, 1)
        assert depth >= 0
    assert decoded == "/v1" or decoded.startswith("/v1/")


@pytest.mark.parametrize("path", ["/a\\b", "/a\nb", "/a\x00b"])
def test_a_path_no_server_should_see_is_refused(path: str):
    with in_memory_service(InMemoryUpstream(), upstreams=NESTED) as service, pytest.raises(InvalidRequest):
        service.registry.resolve_path("v1", path)


def test_an_unknown_name_is_refused_with_those_there_are():
    with (
        in_memory_service(InMemoryUpstream(), upstreams=NESTED) as service,
        pytest.raises(UnknownUpstream, match="root, v1"),
    ):
        service.registry.get("v2")


def test_undeclared_hosts_have_a_gate_each_by_scheme_host_and_port_and_one_name():
    with in_memory_service(InMemoryUpstream(), upstreams=NESTED) as service:
        at = service.registry.resolve_url
        assert at("https://x.example/1")[0] is at("https://X.example/2")[0]
        assert at("https://x.example/")[0] is not at("http://x.example/")[0]
        assert {upstream.name for upstream in service.registry.undeclared} == {UNDECLARED_UPSTREAM_NAME}


@virtual_time
async def test_the_number_of_undeclared_hosts_is_bounded_and_a_busy_one_is_never_dropped():
    with (
        mock.patch("paceline.upstream.registry._MAX_UNDECLARED_HOSTS", 2),
        in_memory_service(InMemoryUpstream()) as service,
    ):
        registry = service.registry
        busy = registry.resolve_url("https://busy.example/")[0]
        busy.async_gate.set_paused(True)
        idle = registry.resolve_url("https://idle.example/")[0]
        third = registry.resolve_url("https://third.example/")[0]
        assert registry.undeclared == [busy, third]
        assert idle not in registry.undeclared
        third.async_gate.set_paused(True)
        with pytest.raises(Overloaded):
            registry.resolve_url("https://fourth.example/")


@virtual_time
async def test_an_undeclared_host_whose_window_still_counts_is_kept():
    upstream = InMemoryUpstream()
    policy = {"defaults": {"rate": [{"limit": 1, "per": "1m"}]}}
    with (
        mock.patch("paceline.upstream.registry._MAX_UNDECLARED_HOSTS", 1),
        in_memory_service(upstream, config=policy) as service,
    ):
        await run_batch(service, Batch([Item(url="https://a.example/")]))
        with pytest.raises(Overloaded):
            service.registry.resolve_url("https://b.example/")
        await asyncio.sleep(61.0)
        assert service.registry.resolve_url("https://b.example/")[0].name == UNDECLARED_UPSTREAM_NAME


def test_who_finds_all_undeclared_hosts_busy_spares_those_behind_the_search():
    with (
        mock.patch("paceline.upstream.registry._MAX_UNDECLARED_HOSTS", 3),
        mock.patch.object(Gate, "is_idle", return_value=False) as looks,
        in_memory_service(InMemoryUpstream()) as service,
    ):
        for n in range(3):
            service.registry.resolve_url(f"https://busy{n}.example/")
        for n in range(20):
            with pytest.raises(Overloaded):
                service.registry.resolve_url(f"https://new{n}.example/")
        assert looks.call_count == 3


def test_declared_egress_opens_no_gate_for_others():
    with in_memory_service(InMemoryUpstream(), config={"egress": {"mode": "declared"}}) as service:
        with pytest.raises(EgressDenied):
            service.registry.resolve_url("https://x.example/")
        assert service.registry.undeclared == []


def reload(service: Service, **policy: Any) -> None:
    service.apply(config({"api": {"base_url": "https://api.example", **policy}}))


@virtual_time
async def test_a_reload_keeps_what_was_counted_and_what_waits():
    upstream = InMemoryUpstream(after_s=0.1)
    with in_memory_service(upstream, rate=[{"limit": 4, "per": "10s"}]) as service:
        running = asyncio.create_task(run_batch(service, Batch(items(8))))
        await asyncio.sleep(1.0)
        reload(service, rate=[{"limit": 4, "per": "10s"}], headers={"x": "1"})
        (known,) = service.registry
        assert known.async_gate.gate.queued == 4
        assert outcome_codes(await running) == ["success"] * 8
    assert upstream.sent_times[3:5] == pytest.approx([1000.0, 1010.05], abs=0.06)


@virtual_time
async def test_a_reload_that_raises_a_limit_lets_those_go_who_waited():
    upstream = InMemoryUpstream(after_s=5.0)
    with in_memory_service(upstream, concurrency={"limit": 1}) as service:
        running = asyncio.create_task(run_batch(service, Batch(items(4))))
        await asyncio.sleep(1.0)
        reload(service, concurrency={"limit": 4})
        await asyncio.sleep(0.0)
        assert upstream.in_flight == 4
        await running


@virtual_time
async def test_a_retune_refuses_who_can_never_be_paid_any_more():
    upstream = InMemoryUpstream(never_respond())
    with in_memory_service(upstream, rate=[{"limit": 10, "per": "60s"}]) as service:
        (known,) = service.registry
        batch = Batch([*items(1, cost=10), *items(1, cost=8), *items(1, cost=2)], deadline_s=200.0)
        running = asyncio.create_task(run_batch(service, batch))
        await asyncio.sleep(1.0)
        known.async_gate.retune([Rate(5, 60.0, 5)])
        outcomes = await running
    assert outcome_codes(outcomes) == ["attempt_timeout", "invalid_request", "success"]
    assert "5 per 60 s" in outcomes[1].error.message


@virtual_time
async def test_a_reset_forgets_a_retune_and_a_pause_by_hand():
    with in_memory_service(InMemoryUpstream(), rate=[{"limit": 10, "per": "60s"}]) as service:
        (known,) = service.registry
        declared = known.policy.to_rates()
        known.async_gate.retune([Rate(5, 60.0, 5)])
        known.async_gate.set_paused(True)
        assert known.async_gate.gate.budgets.rates[0].limit == 5
        known.reset()
        assert known.async_gate.gate.budgets.rates == declared
        assert known.async_gate.gate.paused is False


@virtual_time
async def test_a_reload_that_drops_an_upstream_lets_its_work_end_and_takes_no_more():
    upstream = InMemoryUpstream(after_s=5.0)
    with in_memory_service(upstream, concurrency={"limit": 1}) as service:
        running = asyncio.create_task(run_batch(service, Batch(items(3))))
        await asyncio.sleep(1.0)
        service.apply(config({}))
        assert outcome_codes(await running) == ["success"] * 3
        assert outcome_codes(await run_batch(service, Batch(items(1)))) == ["unknown_upstream"]


@virtual_time
async def test_a_pause_by_hand_holds_everybody_until_it_is_lifted_and_is_on_their_receipts():
    upstream = InMemoryUpstream()
    with in_memory_service(upstream) as service:
        (known,) = service.registry
        known.async_gate.set_paused(True)
        running = asyncio.create_task(run_batch(service, Batch(items(3))))
        await asyncio.sleep(7.0)
        assert (upstream.sent, state_of(known, time.perf_counter()).queued) == ([], 3)
        known.async_gate.set_paused(False)
        outcomes = await running
    assert [outcome.timing.pause_ms for outcome in outcomes] == pytest.approx([7000.0] * 3)


@virtual_time
async def test_two_windows_bind_together_and_costs_are_paid_in_their_own_unit():
    upstream = InMemoryUpstream(after_s=0.01)
    rate = [{"limit": 100, "per": "1s"}, {"limit": 1000, "per": "10s", "unit": "tokens"}]
    with in_memory_service(upstream, rate=rate) as service:
        outcomes = await run_batch(service, Batch(items(9, cost={"tokens": 250}), deadline_s=100.0))
        assert outcome_codes(outcomes) == ["success"] * 9
    seconds = [round(moment - 1000.0) for moment in upstream.sent_times]
    assert seconds == [0] * 4 + [10] * 4 + [20]
    assert all(later >= earlier for earlier, later in pairwise(upstream.sent_times))


@virtual_time
async def test_a_cost_above_any_of_the_windows_is_refused_and_the_others_run():
    upstream = InMemoryUpstream()
    rate = [{"limit": 100, "per": "1s"}, {"limit": 1000, "per": "10s", "unit": "tokens"}]
    with in_memory_service(upstream, rate=rate) as service:
        costs = [{"tokens": 1001}, 101, {"tokens": 1000}, {"other": 1e9}]
        outcomes = await run_batch(service, Batch([items(1, cost=cost)[0] for cost in costs]))
    assert outcome_codes(outcomes) == ["invalid_request", "invalid_request", "success", "success"]
    assert len(upstream.sent) == 2


def test_engines_are_shared_by_all_who_are_reached_in_the_same_way():
    opened: list[tuple[Any, ...]] = []

    def open_engine(*what: Any) -> InMemoryUpstream:
        opened.append(what)
        return InMemoryUpstream()

    with mock.patch("paceline.upstream.registry.open_engine", open_engine):
        service = Service(config({**NESTED, "big": {"base_url": "https://b.example", "max_response": "1GiB"}}))
        names = [upstream.get_transport() for upstream in service.registry]
        assert len({id(transport) for transport in names}) == 2
        big = service.registry.get("big")
        assert big.get_transport("httpx") is not big.get_transport()
    assert len(opened) == 3


@virtual_time
async def test_closing_closes_every_engine_also_those_of_before_a_reload():
    engines = [mock.AsyncMock(), mock.AsyncMock()]
    with mock.patch("paceline.upstream.registry.open_engine", side_effect=engines):
        service = Service(config({"api": {"base_url": "https://api.example"}}))
        reload(service)
        await service.close()
    for engine in engines:
        engine.close.assert_awaited_once_with()


@pytest.mark.parametrize("engine", ["aiohttp", "httpx"])
async def test_an_engine_of_before_a_reload_is_gone_with_the_last_who_uses_it(upstream: ScriptedUpstream, engine: str):
    hold = asyncio.Event()
    upstream.script_response("/0", hold=hold, headers={"keep-alive": "timeout=1"})
    service = Service(config({"api": {"base_url": upstream.url, "allow_private": True, "engine": engine}}))
    old = weakref.ref(service.registry.get("api").get_transport())
    running = asyncio.create_task(run_batch(service, Batch(items(1))))
    await upstream.wait_until(lambda it: it.in_progress == 1)
    reload(service)
    gc.collect()
    assert old() is not None
    with mock.patch("paceline.transport.aiohttp.KEEP_ALIVE_S", 0.01):
        hold.set()
        assert outcome_codes(await running) == ["success"]
        await upstream.wait_until(lambda it: gc.collect() >= 0 and old() is None)
    await service.close()


async def test_a_configuration_that_cannot_be_opened_changes_nothing():
    good = {"base_url": "https://api.example", "rate": [{"limit": 5, "per": "1s"}]}
    service = Service(Config.model_validate({"upstreams": {"api": good}}))
    bad = Config.model_validate({"upstreams": {"api": {**good, "tls": {"ca_file": "/nowhere/ca.pem"}}, "new": good}})
    with pytest.raises(ConfigError, match=r"upstreams\.api: "):
        service.apply(bad)
    assert [upstream.name for upstream in service.registry] == ["api"]
    assert service.registry.get("api").transport_options.ca_file is None
    await service.close()


async def test_an_upstream_that_is_declared_again_goes_on_counting():
    declared = {"upstreams": {"api": {"base_url": "https://api.example", "rate": [{"limit": 5, "per": "1h"}]}}}
    service = Service(Config.model_validate(declared))
    gate = service.registry.get("api").async_gate.gate
    now = time.perf_counter()
    gate.offer(waiter := Waiter(gate.open_flow(Lane.ADAPTIVE, Priority.NORMAL, "t", None), ONE_REQUEST, Receipt()), now)
    gate.dispatch(now)
    gate.mark_written(waiter, now)
    gate.settle(waiter, Verdict.SUCCESS, now, answered_at=now)
    service.apply(Config.model_validate({}))
    service.apply(Config.model_validate(declared))
    assert service.registry.get("api").async_gate.gate is gate
    assert gate.budgets.snapshot()[0].windows[0].remaining(time.perf_counter(), 0.05) == 4
    await service.close()
