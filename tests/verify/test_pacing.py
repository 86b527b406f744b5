"""As fast as a strict API allows and no faster: the real service, real sockets, real time.

`make verify ARGS="-s"` shows each figure.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from tools.paceline_server import PacelineServer
from verify.paced_drain import Arrivals, Case, Fields, Result, StrictApi, drain_all, send_items, serve_cases

pytestmark = pytest.mark.verify

NO_MORE_THAN = 10_000
"""One refusal in this many sends is accepted where the network jitters by 20 ms each way."""


NOISE = 0.03
"""What other work on the same cores was seen to take. A drain below its goal is repeated; the best of three counts."""


def uses_the_rate(result: Result, *, refused: int = 0) -> None:
    assert result.refused <= refused, str(result)
    assert result.used >= result.case.least_used - NOISE, str(result)


def jittery(limit: int, items: int, jitter: str) -> Case:
    return Case(limit, items, 0.97 if jitter == "20ms" else 0.99, api=("--jitter", jitter))


async def test_slow_rates_are_used_and_never_refused(tmp_path: Path) -> None:
    cases = [jittery(limit, 12 * limit, jitter) for limit in (5, 50) for jitter in ("0ms", "5ms", "20ms")]
    for result in await drain_all(tmp_path, *cases):
        uses_the_rate(result)


@pytest.mark.parametrize("jitter", ["0ms", "5ms", "20ms"])
@pytest.mark.parametrize(("limit", "items"), [(500, 4_000), (2_000, 12_000)])
async def test_fast_rates_are_used_and_hardly_ever_refused(tmp_path: Path, limit: int, items: int, jitter: str) -> None:
    [result] = await drain_all(tmp_path, jittery(limit, items, jitter))
    uses_the_rate(result, refused=result.sent // NO_MORE_THAN if jitter == "20ms" else 0)


async def test_slow_answers_do_not_hold_the_rate_back(tmp_path: Path) -> None:
    some = Case(50, 1_000, 0.94, api=("--latency", "100ms..800ms"))
    # 3,000 a minute and answers of 2 to 20 s, six times as fast; `transit` is not, so it costs six times its share.
    long = Case(500, 1_500, 0.99, per_s=10, api=("--latency", "333ms..3333ms"))
    for result in await drain_all(tmp_path, some, long):
        uses_the_rate(result)


def after_the_first(items: int, within_s: float) -> Any:
    """The share used where whole bursts go: the ideal time from the first arrival to the last over the real one."""

    def share(arrivals: Arrivals) -> float:
        return within_s / (arrivals[items - 1] - arrivals[0]) if len(arrivals) == items else 0.0

    return share


async def test_whole_bursts_go_once_a_window(tmp_path: Path) -> None:
    share = after_the_first(501, 5.0)
    [result] = await drain_all(tmp_path, Case(100, 501, 0.97, burst=100, usage_of=share))
    uses_the_rate(result)


async def test_cold_tls_connections_carry_whole_bursts(tmp_path: Path) -> None:
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    ca, cert, key = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(ca)
    own.cert_chain_pems[0].write_to_path(cert)
    own.private_key_pem.write_to_path(key)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    api = ("--tls", str(cert), str(key), "--close")
    policy = {"tls": {"ca_file": str(ca)}}
    even = Case(50, 500, 0.97, api=api, policy=policy, ssl_context=trusting)
    bursts = Case(
        20, 121, 0.9, burst=20, api=api, policy=policy, ssl_context=trusting, usage_of=after_the_first(121, 6.0)
    )
    for result in await drain_all(tmp_path, even, bursts):
        uses_the_rate(result)


async def test_of_several_windows_the_tightest_binds(tmp_path: Path) -> None:
    rate = [{"limit": 50, "per": "1s", "burst": 1}, {"limit": 100, "per": "4s"}]
    case = Case(50, 401, 0.97, api=("--also", "100/4s"), policy={"rate": rate}, usage_of=after_the_first(401, 16.0))
    [result] = await drain_all(tmp_path, case)
    uses_the_rate(result)


async def test_requests_and_tokens_are_paid_together(tmp_path: Path) -> None:
    def tokens(index: int) -> int:
        return (20, 180, 40, 160)[index % 4]

    def item(index: int) -> Fields:
        return {"path": f"/x?tokens={tokens(index)}", "cost": {"requests": 1, "tokens": tokens(index)}}

    def share(arrivals: Arrivals) -> float:
        return sum(tokens(index) for index in range(len(arrivals) - 1)) / 3000 / (arrivals[-1] - arrivals[0])

    rate = [{"limit": 50, "per": "1s", "burst": 5}, {"limit": 3000, "per": "1s", "burst": 200, "unit": "tokens"}]
    case = Case(50, 400, 0.95, api=("--also", "3000/1s/tokens"), policy={"rate": rate}, item=item, usage_of=share)
    [result] = await drain_all(tmp_path, case)
    uses_the_rate(result)


def rate_between(arrivals: Arrivals, begin_s: float, end_s: float) -> float:
    """Arrivals a second between two moments, which count from the first arrival."""
    first = arrivals[0]
    return sum(begin_s <= moment - first < end_s for moment in arrivals) / (end_s - begin_s)


async def retuned(server: PacelineServer, api: StrictApi) -> Sequence[float]:
    """Send at 100 a second, from 3 s on at 50, from 7 s on at 200; the arrivals."""

    async def retune(limit: int) -> None:
        async with server.http.patch(
            "/v1/upstreams/api0", json={"rate": [{"limit": limit, "per": "1s", "burst": 1}]}
        ) as answer:
            assert answer.status == 200, await answer.text()

    sending = asyncio.create_task(send_items(server, "api0", Case(100, 1_400, 0.0)))
    while not (await api.stats())["accepted"]:  # noqa: ASYNC110 - asks another program
        await asyncio.sleep(0.01)
    await asyncio.sleep(3.0)
    await retune(50)
    await asyncio.sleep(1.5)  # what it allowed before is a window away
    await api.control(limit=50)
    await asyncio.sleep(2.5)
    await api.control(limit=200)
    await retune(200)
    total = await sending
    stats = await api.stats()
    late = f"the API was late by up to {stats['late_max_s']:.3f} s"
    assert (total["succeeded"], stats["refused"]) == (1_400, 0), late
    return list(stats["arrivals"])


async def test_a_rate_changed_while_many_wait_is_kept_at_once(tmp_path: Path) -> None:
    best = (0.0, 0.0, 0.0)
    for number in range(3):
        place = tmp_path / str(number)
        place.mkdir()
        async with serve_cases([Case(100, 1_400, 0.0)], place) as (server, [api]):
            arrivals = await retuned(server, api)
        seen = (rate_between(arrivals, 1, 3), rate_between(arrivals, 4.2, 6.8), rate_between(arrivals, 8.5, 10.0))
        print(f"100, 50 and 200 a second, changed by PATCH: {seen}")
        best = max(best, seen, key=lambda rates: min(rates[0] / 100, rates[1] / 50, rates[2] / 200))
        if best[0] >= 97 and best[1] >= 48.5 and best[2] >= 194:
            return
    raise AssertionError(best)


@pytest.mark.parametrize("permits", [20, 1000])
async def test_a_stall_of_the_api_costs_refusals_but_no_item(tmp_path: Path, permits: int) -> None:
    policy = {"concurrency": {"limit": permits}, "retry": {"attempts": 3}}
    case = Case(50, 600, 0.0, policy=policy)
    async with serve_cases([case], tmp_path) as (server, [api]):
        sending = asyncio.create_task(send_items(server, "api0", case))
        await asyncio.sleep(4.0)
        await api.control(stall="3s")
        total = await sending
        stats = await api.stats()
    arrivals = stats["arrivals"]
    print(f"3 s stall at 50 a second, {permits} permits: {stats['refused']} of {case.items} refused, "
          f"done {arrivals[-1] - arrivals[0]:.2f} s after the first")  # fmt: skip
    assert total["succeeded"] == case.items
    # In flight when it woke up, and what was written until its first refusal was read; then a pause.
    assert stats["refused"] <= 3 * case.limit
