"""The end of a service, and a change of its configuration, while callers are at work."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.paceline_server import PacelineServer, StartServer, upstream_config
from tools.scripted_upstream import ScriptedUpstream

ITEM = {"upstream": "api", "path": "/x"}


class Caller:
    """Sends one small batch after another over plain sockets until nobody listens any more."""

    def __init__(self, server: PacelineServer, *, keeps_alive: bool, seen: Counter[str]) -> None:
        self._port = int(server.base_url.rpartition(":")[2])
        body = json.dumps({"requests": [ITEM]}).encode()
        close = b"" if keeps_alive else b"connection: close\r\n"
        self._request = (
            b"POST /v1/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"%bcontent-length: %d\r\n\r\n%b" % (close, len(body), body)
        )
        self._seen = seen

    async def run(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except ConnectionRefusedError:
                return
            except ConnectionResetError as error:
                self._seen[repr(error)] += 1
                continue
            try:
                while await self._exchange(reader, writer):
                    pass
            finally:
                writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None
            answer = json.loads(await reader.readexactly(int(length[1])))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self._seen[repr(error)] += 1
            return False
        status = head.split()[1].decode()
        self._seen[status] += 1
        if status == "200":
            assert answer["summary"]["succeeded"] == 1
        else:
            assert answer["code"] == "draining"
        return b"connection: close" not in head


@pytest.mark.parametrize("keeps_alive", [True, False], ids=["keep-alive", "one-call-each"])
async def test_no_call_is_cut_off_while_the_service_ends(
    serve: StartServer, upstream: ScriptedUpstream, keeps_alive: bool
) -> None:
    upstream.script_response(delay_s=0.05)
    server = await serve({"upstreams": {"api": upstream_config(upstream.url)}})
    seen: Counter[str] = Counter()
    callers = [asyncio.create_task(Caller(server, keeps_alive=keeps_alive, seen=seen).run()) for _ in range(30)]
    await upstream.wait_until(lambda it: len(it.requests) > 60)
    server.terminate()
    assert await server.wait_for_exit() == 0
    await asyncio.gather(*callers)
    assert seen["200"] >= 30
    assert seen["503"] >= 1
    resets = sum(seen.values()) - seen["200"] - seen["503"]
    assert resets <= 1, seen  # nothing can be done for one who connects in the very moment the listener is closed


@pytest.mark.parametrize("engine", ["aiohttp", "httpx"])
async def test_a_change_of_engine_and_limit_loses_nothing_on_its_way(
    serve: StartServer, upstream: ScriptedUpstream, tmp_path: Path, engine: str
) -> None:
    hold = asyncio.Event()
    upstream.script_response("/held", hold=hold)
    config: dict[str, Any] = {
        "upstreams": {"api": upstream_config(upstream.url, engine=engine, rate=[{"limit": 20, "per": "1m"}])}
    }
    server = await serve(config)
    held = {"requests": [{"upstream": "api", "path": "/held"} for _ in range(8)]}
    asking = asyncio.create_task(server.post("/v1/batch", held))
    await upstream.wait_until(lambda it: it.in_progress == 8)
    file = tmp_path / "paceline-1.yaml"
    config["upstreams"]["api"] |= {
        "engine": "httpx" if engine == "aiohttp" else "aiohttp",
        "rate": [{"limit": 10, "per": "1m"}],
    }
    file.write_text(yaml.safe_dump(config))
    server.process.send_signal(signal.SIGHUP)
    await server.process.wait_for_output(re.compile("configuration reloaded"))
    _, state = await server.get("/v1/upstreams/api")
    assert state["engine"] != engine
    assert state["budgets"][0]["windows"][0]["remaining"] <= 2.1  # what was sent before still counts
    status, answer = await server.post("/v1/batch", {"requests": [ITEM] * 4, "deadline": "2s"})
    assert status == 200
    assert (answer["summary"]["succeeded"], answer["summary"]["rejected"]) == (2, 2)
    hold.set()
    status, answer = await asking
    assert (status, answer["summary"]["succeeded"]) == (200, 8)


async def test_a_bad_reload_changes_nothing_and_tells_no_secret(
    serve: StartServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    server = await serve({"upstreams": {"api": upstream_config(upstream.url, auth={"bearer": "s3cr3t-token-1"})}})
    file = tmp_path / "paceline-1.yaml"
    bad = upstream_config(
        upstream.url, auth={"bearer": "s3cr3t-token-2", "basic": {"user": "u", "password": "s3cr3t-3"}}
    )
    file.write_text(yaml.safe_dump({"upstreams": {"api": bad}}))
    server.process.send_signal(signal.SIGHUP)
    await server.process.wait_for_output(re.compile("configuration not reloaded"))
    _, answer = await server.post("/v1/batch", {"requests": [ITEM]})
    assert answer["summary"]["succeeded"] == 1
    assert upstream.requests[0].header("authorization") == "Bearer s3cr3t-token-1"
    assert "s3cr3t" not in server.output()
