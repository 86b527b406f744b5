"""Outages of every kind under a steady load, over real sockets: little is sent, nothing lost, and it is over in time.

`make verify ARGS="-s"` shows each figure. All kinds go down at one time, each an upstream of one service. They are down
for longer than any item can wait, so what waits when they come back has hardly any time left. The machine may be busy
with other work, so where an outage was not over in time it is tried once more; all else must hold each time.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from verify.outage_scenarios import (
    ATTEMPT_TIMEOUT_S,
    CAPACITY,
    MAX_ADAPTIVE_LIMIT,
    SCRAPE_INTERVAL_S,
    Outage,
    OutageRecord,
    OutageUpstream,
    run_outages,
)

pytestmark = pytest.mark.verify

HEALTHY_S, DOWN_S, AFTER_S = 6.0, 13.0, 15.0
FOUND_S = 5.0
STRETCH_S = 2
"""Goodput is taken over this: a busy machine delays what would have come in one second to the next."""
LEAST = 0.95


def over_after_s(outage: Outage) -> float:
    return FOUND_S + (ATTEMPT_TIMEOUT_S if outage is Outage.SILENT else 0.0)


@pytest.mark.parametrize("load", [0.5, 0.9])
async def test_an_outage_costs_few_sends_and_is_over_in_time(load: float, tmp_path: Path) -> None:
    left = list(Outage)
    for tries_left in (1, 0):
        suffered = await run_outages(
            left, tmp_path, per_s=load * CAPACITY, healthy_s=HEALTHY_S, down_s=DOWN_S, after_s=AFTER_S
        )
        for _, record in suffered:
            print(shown(record, load))
        for api, record in suffered:
            sends_little(record)
            loses_nothing(record)
            tells_urgent_calls_at_once(record)
            keeps_to_its_limit(api, record)
            counts_right(api, record)
        left = [record.outage for _, record in suffered if not (closes_in_time(record) and goodput_is_back(record))]
        assert not left or tries_left, left
        if not left:
            return


def sends_little(record: OutageRecord) -> None:
    assert record.opened_at is not None
    lasted_s = record.up_at - record.down_at
    during = record.sends_until(record.up_at) - record.sends_until(record.down_at)
    assert during <= 1.2 * record.offered_in(record.down_at, record.up_at) + 3 * lasted_s, shown(record)
    # Nor at any moment of it, counted from the beginning.
    for seen in record.samples:
        offered = record.offered_in(record.began_at, seen.at) + len(record.interactive_results)
        assert seen.sends <= 1.2 * offered + 3 * (seen.at - record.began_at + 1), shown(record)
    open_s = record.up_at - record.opened_at
    assert record.sends_until(record.up_at) - record.sends_until(record.opened_at) <= 2 + open_s, "more than its trials"


def loses_nothing(record: OutageRecord) -> None:
    assert len(record.results) == len(record.offered)


def tells_urgent_calls_at_once(record: OutageRecord) -> None:
    assert record.opened_at is not None
    later_results = [one for one in record.interactive_results if one.offered_at > record.opened_at]
    refused = [one for one in later_results if one.code == "circuit_open"]
    assert len(refused) >= 0.8 * len(later_results), "more than now and then one is a trial"
    for one in refused:
        assert one.attempts == 0
        assert one.retry_after_ms is not None
        assert 0 < one.retry_after_ms <= 1000 * FOUND_S
        assert one.total_s < 0.1 * ATTEMPT_TIMEOUT_S


def closes_in_time(record: OutageRecord) -> bool:
    assert record.closed_at is not None
    return record.closed_at <= record.up_at + over_after_s(record.outage) + 2 * SCRAPE_INTERVAL_S


def goodput_is_back(record: OutageRecord) -> bool:
    """And stays; also of what is offered from then on, as far as it can have its outcome before the stream ends."""
    over_at, ends_at = record.up_at + over_after_s(record.outage), record.offered[-1]
    moments = [over_at + second for second in range(int(ends_at - over_at) - STRETCH_S)]
    assert len(moments) >= 4
    return all(record.goodput(at, at + STRETCH_S) > LEAST for at in moments) and all(
        record.success_ratio(at, at + 1) > LEAST for at in moments
    )


def keeps_to_its_limit(api: OutageUpstream, record: OutageRecord) -> None:
    assert 0 < api.upstream.in_progress_max <= MAX_ADAPTIVE_LIMIT
    # A limit that falls does not recall calls in flight: up to its last maximum may be in flight.
    highest = [max(seen.limit for seen in record.samples[max(0, n - 15) : n + 1]) for n in range(len(record.samples))]
    assert all(seen.in_flight <= 1.25 * most for seen, most in zip(record.samples, highest, strict=True))


def counts_right(api: OutageUpstream, record: OutageRecord) -> None:
    outcomes = record.results + record.interactive_results
    last = record.samples[-1]
    assert last.breaker == "closed"
    assert last.in_flight == 0
    assert last.sends == sum(one.attempts for one in outcomes)
    assert last.circuit_open == sum(one.code == "circuit_open" for one in outcomes)
    if record.outage in (Outage.UNAVAILABLE, Outage.SILENT):
        assert last.sends == len(api.upstream.requests)
    else:
        assert last.sends > len(api.upstream.requests)


def shown(record: OutageRecord, load: float | None = None) -> str:
    """The figures of one outage, in one line."""
    lasted_s = record.up_at - record.down_at
    offered = record.offered_in(record.down_at, record.up_at)
    during = record.sends_until(record.up_at) - record.sends_until(record.down_at)
    opened_s = (record.opened_at or record.up_at) - record.down_at
    closed_s = (record.closed_at or record.offered[-1]) - record.up_at
    goodput = " ".join(f"{record.goodput(record.up_at + s, record.up_at + s + 1):.0%}" for s in range(12))
    return (
        f"{record.outage}{f' at {load:.0%}' if load else ''}: {during:.0f} sends, at most "
        f"{1.2 * offered + 3 * lasted_s:.0f} allowed; opened after {opened_s:.1f} s, closed {closed_s:.1f} s after "
        f"recovery; goodput by the second: {goodput}; {dict(record.codes())}"
    )
