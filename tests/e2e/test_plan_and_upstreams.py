"""`paceline plan` and `paceline upstreams` as their users run them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.scripted import ScriptedUpstream
from support.server import RunCommand, StartServer, declared

RATE = [{"limit": 20, "per": "1s", "burst": 1}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory the commands run in, without a configuration of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configured(folder: Path, url: str, **policy: Any) -> tuple[str, str]:
    file = folder / "paceline.yaml"
    file.write_text(yaml.safe_dump({"upstreams": {"api": declared(url, **policy)}}))
    return "--config", str(file)


def lines(*items: dict[str, Any]) -> bytes:
    return b"".join(json.dumps({"upstream": "api", "path": "/", **item}).encode() + b"\n" for item in items)


def row(table: str, first: str) -> list[str]:
    """The cells of the row that starts with this."""
    [line] = [line for line in table.splitlines() if re.match(rf"{first}\s", line)]
    return re.split(r"\s{2,}", line)


async def test_a_file_is_planned_without_a_service_and_nothing_is_sent(
    folder: Path, paceline: RunCommand, upstream: ScriptedUpstream
) -> None:
    config = configured(folder, upstream.url, rate=RATE)
    ran = await paceline("plan", "-", *config, stdin=lines(*[{}] * 2_001))
    assert ran.code == 0, ran.stderr
    assert row(ran.stdout, "api") == ["api", "2,001", "1m41s", "20/1s", "0", "100ms"]
    assert "2,001 items in 1m41s; bound by 20/1s of api" in ran.stdout
    assert upstream.requests == []


async def test_what_is_late_or_unusable_is_counted_and_is_exit_code_one(
    folder: Path, paceline: RunCommand, upstream: ScriptedUpstream
) -> None:
    config = configured(folder, upstream.url, rate=RATE)
    given = lines(*[{}] * 41, {"cost": 21}, {"upstream": "nobody"}) + b"{no json\n"
    ran = await paceline("plan", "-", *config, "--deadline", "1s", "--call", "10ms", stdin=given)
    assert ran.code == 1
    name, count, finish, window, late, rejected, call = row(ran.stdout, "api")
    assert (name, count, window, rejected, call) == ("api", "42", "20/1s", "1", "10ms")
    assert finish.startswith("2.0")
    assert f"44 items in {finish}; bound by 20/1s of api; {late} would miss the deadline; 3 would" in ran.stdout
    assert int(late) == pytest.approx(20, abs=2)


async def test_a_service_plans_beside_what_it_does(
    folder: Path, paceline: RunCommand, upstream: ScriptedUpstream, serve: StartServer
) -> None:
    server = await serve({"upstreams": {"api": declared(upstream.url, rate=RATE)}})
    there = ("--server", server.base_url)
    ran = await paceline("plan", "-", *there, stdin=lines(*[{}] * 21))
    assert ran.code == 0, ran.stderr
    name, count, finish, window, *_ = row(ran.stdout, "api")
    assert (name, count, window) == ("api", "21", "20/1s")
    assert finish.startswith("1.1")
    await paceline("upstreams", "pause", "api", *there)
    held = await paceline("plan", "-", *there, stdin=lines({}))
    assert held.code == 1
    assert "api is paused" in held.stdout
    large = await paceline("plan", "-", *there, stdin=lines(*[{}] * 1_001))
    assert large.code == 2
    assert "the service answered 413" in large.stderr
    assert (await paceline("plan", "-", *there, "--call", "1s", stdin=lines({}))).code == 2


async def test_upstreams_are_shown_paused_retuned_and_reset(
    paceline: RunCommand, upstream: ScriptedUpstream, serve: StartServer
) -> None:
    server = await serve({"upstreams": {"api": declared(upstream.url, rate=RATE), "free": declared(upstream.url)}})
    there = ("--server", server.base_url)
    shown = await paceline("upstreams", *there)
    assert shown.code == 0, shown.stderr
    assert row(shown.stdout, "api") == ["api", "20/1s", "20", "0", "0", "20", "ready"]
    assert row(shown.stdout, "free")[:3] == ["free", "-", "-"]
    assert row((await paceline("upstreams", "pause", "api", *there)).stdout, "api")[-1] == "paused"
    assert (await server.get("/v1/upstreams/api"))[1]["paused"] is True
    assert row((await paceline("upstreams", "resume", "api", *there)).stdout, "api")[-1] == "ready"
    retuned = await paceline("upstreams", *there, "rate", "api", "5/1s", "100/1m")
    assert row(retuned.stdout, "api")[1:3] == ["5/1s", "5"]
    windows = (await server.get("/v1/upstreams/api"))[1]["budgets"][0]["windows"]
    assert [(window["limit"], window["per"]) for window in windows] == [(5, "1s"), (100, "1m")]
    assert "20/1s" in (await paceline("upstreams", "reset", "api", *there)).stdout


async def test_what_cannot_be_done_is_told_in_a_line(
    paceline: RunCommand, upstream: ScriptedUpstream, serve: StartServer
) -> None:
    server = await serve({"upstreams": {"api": declared(upstream.url)}})
    there = ("--server", server.base_url)
    for arguments, told in (
        (("upstreams", "pause", "nobody", *there), "the service answered 404"),
        (("upstreams", "rate", "api", "fast", *there), "--rate: 'fast' is not a rate"),
        (("upstreams", "rate", "api", "5/1s", "6/1m", "--burst", "2", *there), "--burst: belongs to one window"),
        (("upstreams", "--server", "http://127.0.0.1:1"), "cannot be reached"),
        (("plan", "no-such-file", *there), "cannot be read"),
    ):
        ran = await paceline(*arguments)
        assert ran.code == 2
        assert told in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
