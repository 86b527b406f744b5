"""`paceline plan` and `paceline upstreams` as their users run them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from tools.paceline_server import PacelineServer, RunCommand, run_in_process, start_server, upstream_config
from tools.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

RATE = [{"limit": 20, "per": "1s", "burst": 1}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """What is planned for and never called."""
    async with ScriptedUpstream() as scripted:
        yield scripted
        assert scripted.requests == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PacelineServer]:
    """One service for all: `planned` and `api` have a rate, `free` has none."""
    upstreams = {name: upstream_config(upstream.url, rate=RATE) for name in ("planned", "api")}
    config = {"upstreams": {**upstreams, "free": upstream_config(upstream.url)}}
    async with start_server(config, tmp_path_factory.mktemp("served") / "paceline.yaml") as serving:
        yield serving


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory the commands run in, without a configuration of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configured(folder: Path, url: str, **policy: Any) -> tuple[str, str]:
    file = folder / "paceline.yaml"
    file.write_text(yaml.safe_dump({"upstreams": {"api": upstream_config(url, **policy)}}))
    return "--config", str(file)


def lines(*items: dict[str, Any]) -> bytes:
    return b"".join(json.dumps({"upstream": "api", "path": "/", **item}).encode() + b"\n" for item in items)


def written(folder: Path, *items: dict[str, Any], to: str = "api") -> str:
    """A file of items, all of them to one upstream."""
    file = folder / "items.ndjson"
    file.write_bytes(lines(*({"upstream": to, **item} for item in items)))
    return str(file)


def row(table: str, first: str) -> list[str]:
    """The cells of the row that starts with this."""
    [line] = [line for line in table.splitlines() if re.match(rf"{first}\s", line)]
    return re.split(r"\s{2,}", line)


async def test_a_file_is_planned_without_a_service_and_nothing_is_sent(
    folder: Path, paceline: RunCommand, upstream: ScriptedUpstream
) -> None:
    config = configured(folder, upstream.url, rate=RATE)
    ran = await paceline("plan", "-", *config, stdin=lines(*[{}] * 2_001))
    assert ran.exit_code == 0, ran.stderr
    assert row(ran.stdout, "api") == ["api", "2,001", "1m41s", "20/1s", "0", "100ms"]
    assert "2,001 items in 1m41s; bound by 20/1s of api" in ran.stdout
    assert upstream.requests == []


async def test_what_is_late_or_unusable_is_counted_and_is_exit_code_one(
    folder: Path, upstream: ScriptedUpstream
) -> None:
    config = configured(folder, upstream.url, rate=RATE)
    file = folder / "items.ndjson"
    file.write_bytes(lines(*[{}] * 41, {"cost": 21}, {"upstream": "nobody"}) + b"{no json\n")
    ran = await run_in_process("plan", str(file), *config, "--deadline", "1s", "--call", "10ms")
    assert ran.exit_code == 1
    name, count, finish, window, late, rejected, call = row(ran.stdout, "api")
    assert (name, count, window, rejected, call) == ("api", "42", "20/1s", "1", "10ms")
    assert finish.startswith("2.0")
    assert f"44 items in {finish}; bound by 20/1s of api; {late} would miss the deadline; 3 would" in ran.stdout
    assert int(late) == pytest.approx(20, abs=2)


async def test_a_service_plans_beside_what_it_does(folder: Path, paceline: RunCommand, server: PacelineServer) -> None:
    there = ("--server", server.base_url)
    ran = await paceline("plan", "-", *there, stdin=lines(*[{"upstream": "planned"}] * 21))
    assert ran.exit_code == 0, ran.stderr
    name, count, finish, window, *_ = row(ran.stdout, "planned")
    assert (name, count, window) == ("planned", "21", "20/1s")
    assert finish.startswith("1.1")
    await run_in_process("upstreams", "pause", "planned", *there)
    held = await run_in_process("plan", written(folder, {}, to="planned"), *there)
    assert held.exit_code == 1
    assert "planned is paused" in held.stdout
    large = await run_in_process("plan", written(folder, *[{}] * 1_001), *there)
    assert large.exit_code == 2
    assert "the service answered 413" in large.stderr
    assert (await run_in_process("plan", written(folder, {}), *there, "--call", "1s")).exit_code == 2


async def test_upstreams_are_shown_paused_retuned_and_reset(paceline: RunCommand, server: PacelineServer) -> None:
    there = ("--server", server.base_url)
    shown = await paceline("upstreams", *there)
    assert shown.exit_code == 0, shown.stderr
    assert row(shown.stdout, "api") == ["api", "20/1s", "20", "0", "0", "20", "ready"]
    assert row(shown.stdout, "free")[:3] == ["free", "-", "-"]
    assert row((await run_in_process("upstreams", "pause", "api", *there)).stdout, "api")[-1] == "paused"
    assert (await server.get("/v1/upstreams/api"))[1]["paused"] is True
    assert row((await run_in_process("upstreams", "resume", "api", *there)).stdout, "api")[-1] == "ready"
    retuned = await run_in_process("upstreams", *there, "rate", "api", "5/1s", "100/1m")
    assert row(retuned.stdout, "api")[1:3] == ["5/1s", "5"]
    windows = (await server.get("/v1/upstreams/api"))[1]["budgets"][0]["windows"]
    assert [(window["limit"], window["per"]) for window in windows] == [(5, "1s"), (100, "1m")]
    assert "20/1s" in (await run_in_process("upstreams", "reset", "api", *there)).stdout


async def test_what_cannot_be_done_is_told_in_a_line(server: PacelineServer) -> None:
    there = ("--server", server.base_url)
    for arguments, told in (
        (("upstreams", "pause", "nobody", *there), "the service answered 404"),
        (("upstreams", "rate", "api", "fast", *there), "--rate: 'fast' is not a rate"),
        (("upstreams", "rate", "api", "5/1s", "6/1m", "--burst", "2", *there), "--burst: belongs to one window"),
        (("upstreams", "--server", "http://127.0.0.1:1"), "cannot be reached"),
        (("plan", "no-such-file", *there), "cannot be read"),
    ):
        ran = await run_in_process(*arguments)
        assert ran.exit_code == 2
        assert told in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
