"""The real command: signals, draining, reloading, and the port that load cannot starve."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tools.free_port import free_port
from tools.paceline_server import PACELINE, PacelineServer, run_in_process, start_server, upstream_config
from tools.processes import LISTENING_PATTERN, start_process
from tools.scripted_upstream import ScriptedUpstream, never_respond

X: dict[str, Any] = {"upstream": "api", "path": "/held"}
DRAINING = re.compile("draining")
LEAVING = re.compile("unready, still taking")


def config_of(upstream: ScriptedUpstream, **server: Any) -> dict[str, Any]:
    return {"server": server, "upstreams": {"api": upstream_config(upstream.url)}}


async def test_a_drain_refuses_the_new_finishes_the_old_and_exits_0(upstream: ScriptedUpstream, tmp_path: Path):
    hold = asyncio.Event()
    upstream.script_response("/held", hold=hold)
    admin = free_port()
    async with start_server(config_of(upstream, admin_port=admin), tmp_path / "p.yaml") as server:
        forms = ["application/json", "application/x-ndjson", "text/event-stream"]
        asked = [asyncio.create_task(send(server, form)) for form in forms]
        await upstream.wait_until(lambda it: it.in_progress == 6)
        server.terminate()
        await server.process.wait_for_output(DRAINING)
        for base in (server.base_url, f"http://127.0.0.1:{admin}"):
            async with server.http.get(f"{base}/readyz") as ready, server.http.get(f"{base}/healthz") as alive:
                assert (ready.status, alive.status) == (503, 200)
        for path, body in (("/v1/batch", {"requests": [X]}), ("/v1/fetch", X), ("/v1/compare", {"request": X})):
            async with server.http.post(path, json=body) as refused:
                assert (refused.status, (await refused.json(content_type=None))["code"]) == (503, "draining")
                assert int(refused.headers["retry-after"]) > 0
        hold.set()
        for answer in await asyncio.gather(*asked):
            assert '"succeeded":2' in answer
        assert await server.wait_for_exit() == 0


async def test_what_outlasts_the_drain_gets_its_outcome(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.script("/held", never_respond())
    async with start_server(config_of(upstream, drain="200ms"), tmp_path / "p.yaml") as server:
        whole, streamed, waiting = (
            asyncio.create_task(each)
            for each in (send(server), send(server, "application/x-ndjson"), send(server, limit=1))
        )
        await upstream.wait_until(lambda it: it.in_progress == 5)
        server.terminate()
        answers = [await whole, await streamed, await waiting]
        assert await server.wait_for_exit() == 0
    assert [answer.count('"outcome":"cancelled"') for answer in answers] == [2, 2, 1]
    assert answers[2].count('"code":"overloaded"') == 1
    assert all('"summary"' in answer for answer in answers)


async def test_a_caller_that_reads_nothing_cannot_hold_up_the_end(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.script_response("/held", body=b"x" * 200_000)
    async with start_server(config_of(upstream, drain="100ms"), tmp_path / "p.yaml") as server:
        body = json.dumps({"requests": [X] * 100}).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", int(server.base_url.rpartition(":")[2]), limit=1024)
        writer.write(
            b"POST /v1/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"accept: application/x-ndjson\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        await upstream.wait_until(lambda it: len(it.requests) == 100 and it.in_progress == 0)
        server.terminate()
        assert await server.wait_for_exit() == 0
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_before_it_drains_it_is_unready_and_serves_all_the_same(upstream: ScriptedUpstream, tmp_path: Path):
    """For `pre_stop`, which here is ended by a second signal."""
    upstream.script_response("/x")
    admin = free_port()
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(config_of(upstream, admin_port=admin, pre_stop="1h")))
    async with start_process(*PACELINE, "serve", "--config", str(file), "--port", "0") as running:
        base_url = (await running.wait_for_output(LISTENING_PATTERN))[1]
        running.send_signal(signal.SIGTERM)
        await running.wait_for_output(LEAVING)
        for path in ("/v1/batch", "/v1/plan"):
            body = {"requests": [{**X, "path": "/x"}]}
            async with aiohttp.ClientSession(base_url) as newcomer, newcomer.post(path, json=body) as answer:
                assert answer.status == 200, await answer.text()
                assert answer.headers["connection"] == "close"
        async with aiohttp.ClientSession() as http:
            for base in (base_url, f"http://127.0.0.1:{admin}"):
                async with http.get(f"{base}/readyz") as ready, http.get(f"{base}/healthz") as alive:
                    assert (ready.status, alive.status) == (503, 200)
        assert len(upstream.requests) == 1
        running.send_signal(signal.SIGTERM)
        assert await running.wait_for_exit() == -signal.SIGTERM
        assert DRAINING.search(running.output()) is None


async def test_after_its_pre_stop_time_it_drains(upstream: ScriptedUpstream, tmp_path: Path):
    hold = asyncio.Event()
    upstream.script_response("/held", hold=hold)
    async with start_server(config_of(upstream, pre_stop="200ms"), tmp_path / "p.yaml") as server:
        asked = asyncio.create_task(send(server))
        await upstream.wait_until(lambda it: it.in_progress == 2)
        server.terminate()
        await server.process.wait_for_output(DRAINING)
        async with server.http.post("/v1/batch", json={"requests": [X]}) as refused:
            assert (refused.status, (await refused.json(content_type=None))["code"]) == (503, "draining")
            assert int(refused.headers["retry-after"]) > 0
        hold.set()
        assert '"succeeded":2' in await asked
        assert await server.wait_for_exit() == 0


async def test_the_drain_s_time_begins_after_the_pre_stop_time(upstream: ScriptedUpstream, tmp_path: Path):
    hold = asyncio.Event()
    upstream.script_response("/held", hold=hold)
    async with start_server(config_of(upstream, pre_stop="1s", drain="1s"), tmp_path / "p.yaml") as server:
        asked = asyncio.create_task(send(server))
        await upstream.wait_until(lambda it: it.in_progress == 2)
        server.terminate()
        await server.process.wait_for_output(DRAINING)
        await asyncio.sleep(0.2)
        hold.set()
        assert '"succeeded":2' in await asked
        assert await server.wait_for_exit() == 0


async def test_a_second_signal_ends_it_at_once(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.script("/held", never_respond())
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(config_of(upstream)))
    async with start_process(*PACELINE, "serve", "--config", str(file), "--port", "0") as running:
        base_url = (await running.wait_for_output(LISTENING_PATTERN))[1]
        async with aiohttp.ClientSession(base_url) as http:
            asking = asyncio.create_task(http.post("/v1/batch", json={"requests": [X]}))
            await upstream.wait_until(lambda it: it.in_progress == 1)
            running.send_signal(signal.SIGTERM)
            await running.wait_for_output(DRAINING)
            running.send_signal(signal.SIGTERM)
            assert await running.wait_for_exit() == -signal.SIGTERM
            await asyncio.gather(asking, return_exceptions=True)


async def test_a_reload_takes_a_good_file_and_leaves_a_bad_one(upstream: ScriptedUpstream, tmp_path: Path):
    file = tmp_path / "p.yaml"
    async with start_server(config_of(upstream), file) as server:
        file.write_text("server: {prot: 1}\n")
        server.process.send_signal(signal.SIGHUP)
        told = await server.process.wait_for_output(re.compile(r"configuration not reloaded.*"))
        assert f"{file}: server.prot: is not a setting; did you mean port?" in told[0]
        assert (await server.post("/v1/batch", {"requests": [{"upstream": "api"}]}))[1]["summary"]["succeeded"] == 1
        file.write_text(yaml.safe_dump({"upstreams": {"renamed": upstream_config(upstream.url)}}))
        server.process.send_signal(signal.SIGHUP)
        await server.process.wait_for_output(re.compile("configuration reloaded"))
        _, listed = await server.get("/v1/upstreams")
        assert [each["name"] for each in listed["upstreams"]] == ["renamed"]


async def test_the_admin_port_serves_health_and_metrics_only(upstream: ScriptedUpstream, tmp_path: Path):
    admin = free_port()
    config = config_of(upstream, admin_port=admin, api_keys=[{"name": "a", "key": "0123456789abcdef"}])
    async with start_server(config, tmp_path / "p.yaml") as server, aiohttp.ClientSession() as http:
        base = f"http://127.0.0.1:{admin}"
        for path, status in (("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/v1/upstreams", 404)):
            async with http.get(base + path) as answer:
                assert answer.status == status
        async with http.get(base + "/metrics") as answer:
            assert "paceline_build_info" in await answer.text()
        async with http.post(base + "/healthz") as answer:
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        for path in ("/healthz", "/readyz", "/metrics"):
            async with http.get(base + path) as whole, http.head(base + path) as head:
                assert (head.status, await head.read()) == (200, b"")
                assert head.headers["content-type"] == whole.headers["content-type"]
        async with http.get(base + "/healthz", headers={"host": "evil.example"}) as answer:
            assert answer.status == 421
        own = {"requests": [{"url": f"http://127.0.0.1:{admin}/healthz"}]}
        _, refused = await server.post("/v1/batch", own, headers={"paceline-key": "0123456789abcdef"})
        assert refused["responses"][0]["error"]["code"] == "egress_denied"


async def test_beyond_loopback_it_serves_with_keys_or_by_word_only(tmp_path: Path):
    file = tmp_path / "p.yaml"
    file.write_text("server: {host: 0.0.0.0}\n")
    refused = await run_in_process("serve", "--config", str(file), "--port", "0")
    assert refused.exit_code != 0
    assert "server.api_keys" in refused.stderr
    assert "listening" not in refused.stderr


async def test_each_mistake_of_a_configuration_that_is_to_be_served_is_a_line(tmp_path: Path):
    file = tmp_path / "p.yaml"
    file.write_text("server: {drain: 0s}\nstore: {jobs: x}\n")
    refused = await run_in_process("serve", "--config", str(file), "--port", "0")
    assert refused.exit_code == 2
    told = [re.fullmatch(rf"{file}: (\S+): .+; fix: .+", line) for line in refused.stderr.splitlines()]
    assert {line and line[1] for line in told} == {"store", "server.drain"}


async def test_a_taken_port_is_told_in_a_line(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = await run_in_process("serve", "--port", port)
    assert refused.exit_code != 0
    assert "Traceback" not in refused.stderr
    assert f"127.0.0.1:{port}" in refused.stderr


async def send(server: PacelineServer, accept: str = "application/json", limit: int | None = None) -> str:
    body: dict[str, Any] = {"requests": [X, X]}
    if limit is not None:
        body["max_concurrency"] = limit
    async with server.http.post("/v1/batch", json=body, headers={"accept": accept}) as answer:
        assert answer.status == 200, await answer.text()
        text = await answer.text()
    return text if accept != "application/json" else json.dumps(json.loads(text), separators=(",", ":"))
