"""The image of deploy/Dockerfile, really built and run: what is in it, how it runs, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from paceline import __version__
from support.containers import (
    CONFIG,
    IMAGE,
    ROOT,
    Container,
    Image,
    memory_limit_of,
    proc_status,
    run_container,
    start_container,
    write_config,
)
from tools.free_port import free_port
from tools.paceline_server import start_server, upstream_config
from tools.processes import LISTENING_PATTERN
from tools.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.deploy
PYTHON = "/opt/paceline/bin/python3"
KEY = "a-key-of-the-test-0123456789"
CALLER = {"headers": {"authorization": f"Bearer {KEY}"}}
ITEM = {"upstream": "api", "path": "/x"}
MIB = 1024 * 1024


def config(upstream: ScriptedUpstream, **policy: Any) -> dict[str, Any]:
    return {
        "server": {"port": free_port(), "api_keys": [{"name": "test", "key": KEY}]},
        "upstreams": {"api": upstream_config(upstream.url, **policy)},
    }


async def python(image: Image, script: str) -> Any:
    """What a script prints as JSON that the image's Python runs."""
    return json.loads(
        await image.podman("run", "--rm", "--network", "none", "--entrypoint", PYTHON, IMAGE, "-c", script)
    )


async def test_it_says_what_it_is_and_how_it_runs(image: Image) -> None:
    inspected = await image.inspected("image", IMAGE)
    settings = inspected["Config"]
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): text for name, text in settings["Labels"].items() if name.startswith(prefix)}
    assert labels.keys() == {"title", "description", "version"}
    assert labels["version"] == __version__
    assert settings["User"] == "10001:10001"
    assert settings["Entrypoint"] == ["/opt/paceline/bin/paceline"]
    assert settings["Cmd"] == ["serve"]
    assert "PACELINE_INSECURE" not in str(settings["Env"])


async def test_it_adds_nothing_to_its_base_but_the_wheel_and_its_dependencies(image: Image) -> None:
    added = await image.paths(IMAGE) - await image.paths(image.base)
    bytecode = re.compile(r"/usr/lib/python3\.11/(.+/)?__pycache__(/.+\.pyc)?")
    added -= {"/etc/hosts", *image.mounted}  # left empty by this build, for its own network and package index
    assert not {path for path in added if not path.startswith("/opt/paceline") and not bytecode.fullmatch(path)}
    lock = (ROOT / ".ci/requirements.lock").read_text()
    pinned = dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", lock))
    del pinned["setuptools"]  # builds the wheel
    owned = """
import importlib.metadata as m, json, pathlib, re, site
there = list(m.distributions())
names = {re.sub("[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in there}
files = {str(d.locate_file(f).resolve()) for d in there for f in d.files}
folder = pathlib.Path(site.getsitepackages()[0])
strange = [str(f) for f in folder.rglob("*") if f.is_file() and f.suffix != ".pyc" and str(f) not in files]
print(json.dumps([names, strange]))
"""
    names, strange = await python(image, owned)
    assert names == pinned | {"paceline": __version__}
    assert not strange


async def test_neither_a_start_nor_a_batch_compiles_anything(
    image: Image, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Nothing could keep the bytecode, so every start would do it again."""
    file = config(upstream) | {"egress": {"mode": "declared"}}
    async with start_container(image, file, tmp_path / "etc", "--env", "PYTHONVERBOSE=1") as container:
        _, answer = await container.server.post("/v1/batch", {"requests": [ITEM]}, **CALLER)
        assert answer["summary"]["succeeded"] == 1
    read = set(re.findall(r"(?m)^# code object from '?(/[^'\n]+)", container.server.output()))
    assert len(read) > 300
    assert not [path for path in read if not path.endswith(".pyc")]


async def test_a_batch_goes_through_a_container_that_may_do_nothing_else(
    image: Image, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async with start_container(image, config(upstream), tmp_path / "etc", "--memory", "512m") as container:
        status, _ = await container.server.post("/v1/batch", {"requests": [ITEM]})
        assert status == 401
        status, answer = await container.server.post("/v1/batch", {"requests": [ITEM] * 200}, **CALLER)
        assert (status, answer["summary"]["succeeded"]) == (200, 200)
        assert len(upstream.requests) == 200

        pid = await container.pid()
        status = proc_status(pid)
        assert set(status["Uid"] + status["Gid"]) == {"10001"}
        assert {status[name][0] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == ["1"]
        assert memory_limit_of(pid) == 512 * MIB
        for folder in ("/", "/opt/paceline", "/home", CONFIG.rpartition("/")[0]):
            assert await _write(container, folder) == "Read-only file system"
        assert await _write(container, "/tmp") == "written"


async def _write(container: Container, folder: str) -> str:
    script = f"""
try:
    open({folder + "/new"!r}, "w").close()
    print("written")
except OSError as error:
    print(error.strerror)
"""
    return await container.image.podman("exec", container.name, PYTHON, "-c", script)


async def test_sigterm_reaches_the_server_and_what_is_in_flight_is_answered(
    image: Image, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    hold = asyncio.Event()
    upstream.script_response("/x", hold=hold)
    async with start_container(image, config(upstream), tmp_path / "etc") as container:
        running = container.server.process
        asking = asyncio.create_task(container.server.post("/v1/batch", {"requests": [ITEM] * 20}, **CALLER))
        await upstream.wait_until(lambda it: it.in_progress == 20)
        stopping = asyncio.create_task(container.podman("stop", "--time", "60"))
        await running.wait_for_output(re.compile("draining"))
        hold.set()
        status, answer = await asking
        assert (status, answer["summary"]["succeeded"]) == (200, 20)
        assert await running.wait_for_exit() == 0
        await stopping


async def test_a_second_sigterm_ends_it_at_once(image: Image, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """The first process of a container hears only what it asked for."""
    upstream.script_response("/x", hold=asyncio.Event())
    write_config(config(upstream), tmp_path / "etc")
    async with run_container(image, tmp_path / "etc") as (name, running):
        base_url = (await running.wait_for_output(LISTENING_PATTERN))[1].replace("0.0.0.0", "127.0.0.1")
        async with aiohttp.ClientSession(base_url, headers=CALLER["headers"]) as http:
            asking = asyncio.create_task(http.post("/v1/batch", json={"requests": [ITEM] * 20}))
            await upstream.wait_until(lambda it: it.in_progress == 20)
            await image.podman("kill", "--signal", "TERM", name)
            await running.wait_for_output(re.compile("draining"))
            await image.podman("kill", "--signal", "TERM", name)
            assert await running.wait_for_exit() == 128 + signal.SIGTERM
            with pytest.raises(aiohttp.ClientError):
                await asking


async def test_settings_of_the_environment_win(image: Image, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    file = config(upstream, rate=[{"limit": 90, "per": "1m"}])
    port = free_port()
    settings = ("--env", f"PACELINE_PORT={port}", "--env", "PACELINE_REPLICAS=3")
    async with start_container(image, file, tmp_path / "etc", *settings) as container:
        assert container.server.base_url == f"http://127.0.0.1:{port}"
        _, state = await container.server.get("/v1/upstreams/api", **CALLER)
        assert state["budgets"][0]["windows"][0]["limit"] == 30


async def test_sighup_reads_the_mounted_configuration_again(
    image: Image, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    file = config(upstream)
    async with start_container(image, file, tmp_path / "etc") as container:
        write_config(file | {"upstreams": {"new": upstream_config(upstream.url)}}, tmp_path / "etc")
        await container.podman("kill", "--signal", "HUP")
        await container.server.process.wait_for_output(re.compile("configuration reloaded"))
        batch = {"requests": [{"upstream": "new", "path": "/x"}]}
        _, answer = await container.server.post("/v1/batch", batch, **CALLER)
        assert answer["summary"]["succeeded"] == 1


UNUSABLE = {
    "unknown key": (
        {"server": {"api_keyz": []}},
        0o644,
        "server.api_keyz: is not a setting; did you mean api_keys?; fix: write api_keys, or remove it",
    ),
    "no keys": (
        {"upstreams": {}},
        0o644,
        "server.api_keys: anyone who reaches 0.0.0.0 could send requests through this service; fix: add an API key, "
        "listen on 127.0.0.1, or give --insecure if that is meant",
    ),
    "not readable": ({}, 0o600, "permission denied; fix: name a file that exists and can be read"),
}


@pytest.mark.parametrize(("mistaken", "mode", "message"), UNUSABLE.values(), ids=UNUSABLE)
async def test_a_configuration_that_cannot_be_used_is_told_in_the_last_line(
    image: Image, tmp_path: Path, mistaken: dict[str, Any], mode: int, message: str
) -> None:
    write_config(mistaken, tmp_path / "etc").chmod(mode)
    assert await _refusal(image, tmp_path / "etc") == f"{CONFIG}: {message}"


async def test_so_is_a_configuration_that_is_not_there(image: Image) -> None:
    fix = "no such file or directory; fix: name a file that exists and can be read"
    assert await _refusal(image, None) == f"{CONFIG}: {fix}"


async def _refusal(image: Image, folder: Path | None) -> str:
    async with run_container(image, folder) as (_, running):
        assert await running.wait_for_exit() == 2, running.output()
    assert running.stdout == []
    return running.stderr[-1]


async def test_sigterm_ends_what_is_still_starting(image: Image, tmp_path: Path) -> None:
    """Its first process would not hear of it, and a stop would take the whole grace period."""
    folder = tmp_path / "etc"
    write_config({}, folder).unlink()
    os.mkfifo(folder / "paceline.yaml", 0o644)  # a configuration that keeps it waiting
    async with run_container(image, folder) as (name, running):
        awaited = await asyncio.to_thread(os.open, folder / "paceline.yaml", os.O_WRONLY)  # once it is read
        await image.podman("stop", "--time", "60", name)
        os.close(awaited)
        assert await running.wait_for_exit() == 128 + signal.SIGTERM


async def test_a_start_takes_hardly_longer_than_without_a_container(
    image: Image, upstream: ScriptedUpstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare, contained, empty = [], [], []
    for turn in range(3):
        file = config(upstream)
        bare.append(await _seconds(start_server(file, tmp_path / f"{turn}.yaml")))
        contained.append(await _seconds(start_container(image, file, tmp_path / "etc")))
        empty.append(await _seconds_of_nothing(image))
    size = int((await image.inspected("image", IMAGE))["Size"]) / 1e6
    base = int((await image.inspected("image", image.base))["Size"]) / 1e6
    with capsys.disabled():
        print(
            f"\nimage: {size:.0f} MB, {base:.0f} MB of it its base; ready after {min(contained) * 1000:.0f} ms, "
            f"without a container {min(bare) * 1000:.0f} ms, and a container alone {min(empty) * 1000:.0f} ms"
        )
    assert min(contained) < 1.5 * (min(bare) + min(empty))


async def _seconds(started: AbstractAsyncContextManager[Any]) -> float:
    begun = time.perf_counter()
    async with started:
        return time.perf_counter() - begun


async def _seconds_of_nothing(image: Image) -> float:
    begun = time.perf_counter()
    async with run_container(image, None, "--entrypoint", "/bin/true") as (_, running):
        assert await running.wait_for_exit() == 0
    return time.perf_counter() - begun
