"""A run through a service: what it sends, and how it takes every kind of answer. The service is scripted."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from paceline.cli.flag_parsing import batch_from_flags
from paceline.cli.io.ndjson_reader import NdjsonReader
from paceline.cli.io.output_file import open_output
from paceline.cli.io.output_writer import OutputWriter
from paceline.cli.io.service_client import ServiceClient
from paceline.cli.remote_backend import RemoteBackend
from paceline.cli.usage_error import UsageError
from support.reader_threads import wait_for_reader_threads
from tools.scripted_upstream import (
    Handler,
    Peer,
    ReceivedRequest,
    ScriptedUpstream,
    disconnect,
    reset_connection,
    response_head,
)

STREAM = {"content-type": "application/x-ndjson", "transfer-encoding": "chunked"}
PROBLEM = {"content-type": "application/problem+json"}


def chunked(*lines: dict[str, Any], end: bool = True) -> bytes:
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return b"%x\r\n%b\r\n" % (len(body), body) + (b"0\r\n\r\n" if end else b"")


def outcome(item: dict[str, Any], index: int, kind: str = "success", **more: Any) -> dict[str, Any]:
    return {"id": item["id"], "index": index, "outcome": kind, "status": 200, "attempts": 1, "error": None, **more}


async def answers_all(request: ReceivedRequest, peer: Peer) -> None:
    """As the service does, last item first."""
    items = list(enumerate(request.json["requests"]))
    peer.write(
        response_head(200, STREAM) + chunked(*(outcome(item, at) for at, item in reversed(items)), {"summary": {}})
    )
    await peer.drain()


async def carried(
    service: ScriptedUpstream, tmp_path: Path, lines: list[dict[str, Any]], lookahead: int = 1000, **batch: Any
) -> list[dict[str, Any]]:
    """Run these lines through the service; the outcomes as written."""
    file, out = tmp_path / "in.ndjson", tmp_path / "out.ndjson"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fd = os.open(file, os.O_RDONLY)
    source, (sink, _) = NdjsonReader(fd), open_output(str(out), resume=False)
    outlet = OutputWriter(sink, lookahead)
    way = RemoteBackend(ServiceClient(service.url, "a-key"), batch_from_flags(**batch), lookahead)
    writing = asyncio.create_task(outlet.write_until_finished())
    try:
        async with asyncio.timeout(30):
            await way.run(source, outlet)
    finally:
        await way.close()
        outlet.finish()
        await writing
        source.close()
        sink.close()
        await wait_for_reader_threads()
        os.close(fd)
    return [json.loads(line) for line in out.read_bytes().splitlines()]


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"id": f"item-{number}", "url": "http://a/"} for number in range(count)]


async def test_the_index_goes_on_over_all_batches(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.script("/v1/batch", answers_all)
    outcomes = await carried(upstream, tmp_path, numbered(700))
    assert sorted(each["index"] for each in outcomes) == list(range(700))
    assert all(each["id"] == f"item-{each['index']}" for each in outcomes)
    assert len(upstream.requests) >= 3
    assert {request.header("paceline-key") for request in upstream.requests} == {"a-key"}


async def test_an_item_without_an_id_has_its_index_as_one(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.script("/v1/batch", answers_all)
    outcomes = await carried(upstream, tmp_path, [{"url": "http://a/"}] * 300)
    assert sorted(int(each["id"]) for each in outcomes) == list(range(300))
    assert all(each["id"] == str(each["index"]) for each in outcomes)


async def test_the_flags_travel_with_every_batch(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.script("/v1/batch", answers_all)
    await carried(
        upstream, tmp_path, numbered(3), rate="5/1s", burst=1.0, max_concurrency=4, attempts=2, deadline="60s"
    )
    sent = upstream.requests[0].json
    assert sent["strategy"] == "adaptive"
    assert sent["rate"] == {"limit": 5, "per": 1, "burst": 1}
    assert sent["max_concurrency"] == 4
    assert sent["retry"] == {"attempts": 2}
    assert 50 < sent["deadline"] <= 60


async def test_a_cap_of_the_runs_own_is_kept_by_one_batch_at_a_time(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.script("/v1/batch", answers_all)
    await carried(upstream, tmp_path, numbered(1000), max_concurrency=4)
    assert upstream.in_progress_max == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_service_is_waited_for(upstream: ScriptedUpstream, tmp_path: Path, status: int) -> None:
    upstream.script_response("/v1/batch", status=status, headers={"retry-after": "1", **PROBLEM}, body="{}", times=1)
    upstream.script("/v1/batch", answers_all)
    outcomes = await carried(upstream, tmp_path, numbered(5))
    assert len(outcomes) == 5
    first, second = upstream.requests
    assert second.at - first.at >= 1.0


async def test_a_batch_that_is_too_large_is_halved(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async def takes_ten(request: ReceivedRequest, peer: Peer) -> None:
        if len(request.json["requests"]) <= 10:
            await answers_all(request, peer)
        else:
            peer.write(response_head(413, {"content-length": "2", **PROBLEM}) + b"{}")
            await peer.drain()

    upstream.script("/v1/batch", takes_ten)
    outcomes = await carried(upstream, tmp_path, numbered(100))
    assert sorted(each["index"] for each in outcomes) == list(range(100))


async def test_a_service_that_allows_less_time_is_asked_for_less(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async def takes_a_minute(request: ReceivedRequest, peer: Peer) -> None:
        if request.json["deadline"] <= 60:
            await answers_all(request, peer)
        else:
            body = b'{"detail":"deadline is above the 1m this service allows","field":"deadline"}'
            peer.write(response_head(422, {"content-length": str(len(body)), **PROBLEM}) + body)
            await peer.drain()

    upstream.script("/v1/batch", takes_a_minute)
    assert len(await carried(upstream, tmp_path, numbered(3))) == 3


async def test_an_item_that_waited_too_long_for_one_batch_goes_into_the_next(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async def too_slow(request: ReceivedRequest, peer: Peer) -> None:
        first, second = request.json["requests"]
        unsent = {"code": "deadline_exceeded", "sent": False}
        lines = outcome(first, 0), outcome(second, 1, "deadline_exceeded", error=unsent)
        peer.write(response_head(200, STREAM) + chunked(*lines, {"summary": {}}))
        await peer.drain()

    upstream.script("/v1/batch", too_slow, times=1)
    upstream.script("/v1/batch", answers_all)
    outcomes = await carried(upstream, tmp_path, numbered(2))
    assert [(each["index"], each["outcome"]) for each in outcomes] == [(0, "success"), (1, "success")]


async def test_an_answer_that_breaks_off_loses_no_item(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async def breaks_off(request: ReceivedRequest, peer: Peer) -> None:
        peer.write(response_head(200, STREAM) + chunked(outcome(request.json["requests"][1], 1), end=False))
        await peer.drain()
        await asyncio.sleep(0.05)
        peer.reset()
        await peer.wait_closed()

    upstream.script("/v1/batch", breaks_off)
    outcomes = {each["id"]: each for each in await carried(upstream, tmp_path, numbered(3))}
    assert outcomes["item-1"]["outcome"] == "success"
    for name in ("item-0", "item-2"):
        assert outcomes[name]["outcome"] == "cancelled"
        assert outcomes[name]["error"]["sent"] is True
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("script", [disconnect(), reset_connection()], ids=["closed", "reset"])
async def test_a_connection_that_is_lost_before_the_answer_loses_no_item(
    upstream: ScriptedUpstream, tmp_path: Path, script: Handler
) -> None:
    upstream.script("/v1/batch", script)
    outcomes = await carried(upstream, tmp_path, numbered(3))
    assert [(each["outcome"], each["error"]["sent"]) for each in outcomes] == [("cancelled", True)] * 3
    assert len(upstream.requests) == 1


async def test_a_line_that_is_no_item_never_reaches_the_service(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.script("/v1/batch", answers_all)
    lines = [{"id": "good", "url": "http://a/"}, {"id": "bad", "urll": "http://a/"}]
    outcomes = {each["id"]: each["outcome"] for each in await carried(upstream, tmp_path, lines)}
    assert outcomes == {"good": "success", "bad": "rejected"}
    assert [item["id"] for item in upstream.requests[0].json["requests"]] == ["good"]


async def test_one_item_the_service_refuses_does_not_stop_the_others(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    body = b'{"detail":"requests[1].cost is new here","field":"requests[1].cost"}'
    upstream.script_response("/v1/batch", status=422, headers=PROBLEM, body=body, times=1)
    upstream.script("/v1/batch", answers_all)
    outcomes = {each["index"]: each["outcome"] for each in await carried(upstream, tmp_path, numbered(3))}
    assert outcomes == {0: "success", 1: "rejected", 2: "success"}


@pytest.mark.parametrize("status", [401, 404, 422, 500])
async def test_a_refusal_ends_the_run_in_the_services_own_words(
    upstream: ScriptedUpstream, tmp_path: Path, status: int
) -> None:
    upstream.script_response("/v1/batch", status=status, headers=PROBLEM, body='{"detail":"not like this"}')
    with pytest.raises(UsageError, match=f"{status}: not like this"):
        await carried(upstream, tmp_path, numbered(3))


async def test_what_is_no_service_is_told_so(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not answer like Paceline"):
        await carried(upstream, tmp_path, numbered(3))


@pytest.mark.parametrize(
    "server", ["localhost:8080", "ftp://a", "http://", "http://a:99999", "http://u:p@a", "http://[a"]
)
def test_an_address_that_is_none_is_refused(server: str) -> None:
    with pytest.raises(UsageError, match="--server"):
        ServiceClient(server, None)
