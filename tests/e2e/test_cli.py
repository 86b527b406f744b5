"""The real command in its own process, over real sockets and pipes."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.demo_server import DemoUpstream, StartDemo
from tools.paceline_server import PACELINE, RunCommand, StartServer, run_in_process, upstream_config
from tools.processes import start_process
from tools.scripted_upstream import ScriptedUpstream, respond_with
from tools.waiting import wait_until

HEAVY = ("aiohttp", "fastapi", "httpx2", "rich", "prometheus_client", "pydantic", "uvloop")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory the commands run in, without a configuration of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configured(folder: Path, url: str, **policy: Any) -> tuple[str, str]:
    file = folder / "paceline.yaml"
    file.write_text(yaml.safe_dump({"upstreams": {"api": upstream_config(url, **policy)}}))
    return "--config", str(file)


def items(folder: Path, count: int) -> str:
    file = folder / "in.ndjson"
    lines = (json.dumps({"id": f"item-{n}", "upstream": "api", "path": f"/{n}"}) for n in range(count))
    file.write_text("".join(line + "\n" for line in lines))
    return str(file)


def written(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def successes(file: Path) -> Counter[str]:
    return Counter(line["id"] for line in written(file) if line["outcome"] == "success")


async def test_a_run_keeps_the_rate_and_loses_nothing(
    folder: Path, paceline: RunCommand, demo_upstream: StartDemo
) -> None:
    demo: DemoUpstream = await demo_upstream(limit=100)
    config = configured(folder, demo.url, rate=[{"limit": 100, "per": "1s", "burst": 10}])
    ran = await paceline("run", items(folder, 150), "-o", "out.ndjson", *config)
    assert ran.exit_code == 0, ran.stderr
    assert successes(folder / "out.ndjson") == Counter(f"item-{n}" for n in range(150))
    assert "150 succeeded, 0 failed, 0 rejected" in ran.stderr
    assert (await demo.stats())["refused"] == 0


async def test_from_a_pipe_to_a_pipe_in_order_of_completion(
    folder: Path, paceline: RunCommand, upstream: ScriptedUpstream
) -> None:
    upstream.script_response("/slow", delay_s=0.5)
    given = b'{"upstream":"api","path":"/slow"}\n{"upstream":"api","path":"/quick"}\n'
    ran = await paceline("run", "-", *configured(folder, upstream.url), stdin=given)
    assert ran.exit_code == 0
    assert [json.loads(line)["index"] for line in ran.stdout.splitlines()] == [1, 0]
    assert "\x1b" not in ran.stderr


async def test_bad_lines_and_failures_are_outcomes_and_exit_code_one(
    folder: Path, paceline: RunCommand, upstream: ScriptedUpstream
) -> None:
    upstream.script_response("/gone", status=404)
    given = b'{"id":"a","upstream":"api","path":"/gone"}\n{no json\n\n{"id":"b","upstream":"api"}\n'
    ran = await paceline("run", "-", *configured(folder, upstream.url), stdin=given)
    assert ran.exit_code == 1
    outcomes = {line["id"]: line for line in map(json.loads, ran.stdout.splitlines())}
    assert {name: line["outcome"] for name, line in outcomes.items()} == {
        "a": "http_error",
        "line-2": "rejected",
        "b": "success",
    }
    assert outcomes["line-2"]["error"]["code"] == "invalid_request"
    assert outcomes["line-2"]["error"]["message"].startswith("line 2: ")
    assert "1 succeeded, 1 failed, 1 rejected" in ran.stderr


async def test_a_killed_run_is_resumed_and_every_id_succeeds_once(
    folder: Path, paceline: RunCommand, demo_upstream: StartDemo
) -> None:
    demo = await demo_upstream(limit=1000, latency="20ms")
    config = configured(folder, demo.url, rate=[{"limit": 200, "per": "1s", "burst": 1}])
    file, out = items(folder, 200), folder / "out.ndjson"
    async with start_process(*PACELINE, "run", file, "-o", str(out), *config) as running:
        await wait_until(lambda: lines_of(out) >= 60, timeout_s=60)
        running.send_signal(signal.SIGKILL)
        await running.wait_for_exit()
    with out.open("ab") as torn:
        torn.write(b'{"id":"item-199","index":199,"outc')
    before = len(successes(out_without_last(out)))
    ran = await paceline("run", file, "-o", str(out), "--resume", *config)
    assert ran.exit_code == 0, ran.stderr
    assert successes(out) == Counter(f"item-{n}" for n in range(200))
    assert f"{before} done before" in ran.stderr
    assert (await demo.stats())["accepted"] < 200 + 30  # what was in flight when it was killed is sent again


async def test_what_failed_is_tried_again_on_resume_and_its_last_line_counts(
    folder: Path, paceline: RunCommand, upstream: ScriptedUpstream
) -> None:
    upstream.script_response("/1", status=404, times=1)
    config = configured(folder, upstream.url)
    file = items(folder, 3)
    assert (await paceline("run", file, "-o", "out.ndjson", *config)).exit_code == 1
    assert (await paceline("run", file, "-o", "out.ndjson", "--resume", *config)).exit_code == 0
    lines = written(folder / "out.ndjson")
    assert [line["outcome"] for line in lines if line["id"] == "item-1"] == ["http_error", "success"]
    assert Counter(request.path for request in upstream.requests) == {"/0": 1, "/1": 2, "/2": 1}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_an_interrupted_run_ends_what_is_in_flight_and_can_be_resumed(
    folder: Path, paceline: RunCommand, upstream: ScriptedUpstream, number: signal.Signals, code: int
) -> None:
    upstream.script_response(delay_s=0.2)
    config = configured(folder, upstream.url, concurrency={"limit": 5})
    file, out = items(folder, 30), folder / "out.ndjson"
    async with start_process(*PACELINE, "run", file, "-o", str(out), *config) as running:
        await wait_until(lambda: lines_of(out) >= 5, timeout_s=60)
        running.send_signal(number)
        assert await running.wait_for_exit() == code
        assert "--resume" in running.output()
        assert "Traceback" not in running.output()
    assert 5 <= len(written(out)) == len(upstream.requests) < 30
    assert (await paceline("run", file, "-o", str(out), "--resume", *config)).exit_code == 0
    assert successes(out) == Counter(f"item-{n}" for n in range(30))
    assert len(upstream.requests) == 30


async def test_an_idle_run_ends_at_once_when_interrupted(folder: Path, upstream: ScriptedUpstream) -> None:
    config = configured(folder, upstream.url)
    process = await asyncio.create_subprocess_exec(
        *PACELINE, "run", "-", *config, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(b'{"upstream":"api","path":"/x"}\n')
    await upstream.wait_until(lambda seen: len(seen.requests) == 1, timeout_s=30)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        stdout, stderr = await process.communicate()
    assert process.returncode == 143
    assert b"Traceback" not in stderr
    assert len(stdout.splitlines()) == 1


def test_a_reader_that_goes_away_ends_the_run_quietly(folder: Path) -> None:
    file = folder / "in.ndjson"
    file.write_text('{"upstream":"nobody","path":"/"}\n' * 20_000)
    command = f"{sys.executable} -m paceline run {file} 2>err | head -n 1 >first; echo ${{PIPESTATUS[0]}}"
    said = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == "141"
    assert (folder / "err").read_text() == ""
    assert json.loads((folder / "first").read_text())["outcome"] == "rejected"


async def test_memory_does_not_grow_with_the_input(folder: Path) -> None:
    """A line more may cost its id's 30 bytes, not its item's or outcome's hundreds."""
    probe = folder / "probe.py"
    probe.write_text(
        "import resource, sys\nfrom paceline.__main__ import main\ntry:\n    main()\nfinally:\n"
        "    print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
    )
    peaks_kib = []
    for count in (2_000, 60_000):
        file = folder / f"{count}.ndjson"
        line = '{"id":"item-number-%d","upstream":"nobody","path":"/a/path/of/some/length/%d"}\n'
        with file.open("w") as lines:
            lines.writelines(line % (n, n) for n in range(count))
        async with start_process(sys.executable, str(probe), "run", str(file), "-o", f"{count}.out") as running:
            assert await running.wait_for_exit() == 1
            peaks_kib.append(int(running.stderr[-1].split()[1]))
        with (folder / f"{count}.out").open("rb") as out:
            assert sum(1 for _ in out) == count
    assert peaks_kib[1] - peaks_kib[0] < 8 * 1024


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "missing.ndjson"), "missing.ndjson cannot be read: No such file"),
        (("run", "-", "--config", "missing.yaml"), "missing.yaml"),
        (("run", "-", "--rate", "fast"), "--rate: 'fast' is not a rate"),
        (("run", "-", "--strategy", "bounded", "--rate", "5/1s"), "--rate: means nothing under bounded"),
        (("run", "-", "--resume"), "--resume: needs the file"),
        (("run", "in.ndjson", "-o", "in.ndjson"), "is the input itself"),
        (("run", "in.ndjson", "-o", "full.ndjson"), "add --resume"),
        (("run", "in.ndjson", "-o", "no/such/folder"), "cannot be written: No such file"),
        (("run", "-", "--server", "nowhere"), "--server: 'nowhere' is not a service's address"),
        (("run", "-", "--key", "ABSENT", "--server", "http://127.0.0.1:1"), "--key"),
        (("compare", "ftp://a/"), "'ftp://a/' is no URL to compare"),
        (("compare", "http://127.0.0.1/", "--server", "http://127.0.0.1:1"), "cannot be reached"),
        (("compare", "http://127.0.0.1/", "--strategies", "token_bucket"), "--rate: is required by token_bucket"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
async def test_a_mistake_is_told_in_a_line_with_its_fix(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    (folder / "in.ndjson").write_text('{"url":"http://a/"}\n')
    (folder / "full.ndjson").write_text("something\n")
    ran = await run_in_process(*arguments)
    assert ran.exit_code == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.splitlines()) <= 3
    assert (folder / "full.ndjson").read_text() == "something\n"


async def test_a_run_through_a_service_gives_the_same_lines(
    folder: Path, paceline: RunCommand, serve: StartServer, upstream: ScriptedUpstream
) -> None:
    upstream.script_response("/7", status=404)
    key = "a-key-of-enough-characters"
    server = await serve(
        {
            "server": {"api_keys": [{"name": "me", "key": key}], "max_items": 100},
            "upstreams": {"api": upstream_config(upstream.url)},
        }
    )
    file = items(folder, 300)
    refused = await paceline("run", file, "--server", server.base_url)
    assert refused.exit_code == 2
    assert "401" in refused.stderr
    assert "Traceback" not in refused.stderr
    ran = await paceline(
        "run", file, "-o", "out.ndjson", "--server", server.base_url, "--key", "MINE", env={"MINE": key}
    )
    assert ran.exit_code == 1, ran.stderr
    lines = written(folder / "out.ndjson")
    assert sorted(line["index"] for line in lines) == list(range(300))
    assert all(line["id"] == f"item-{line['index']}" for line in lines)
    assert [line["id"] for line in lines if line["outcome"] != "success"] == ["item-7"]
    local = await paceline("run", file, "-o", "local.ndjson", *configured(folder, upstream.url))
    assert local.exit_code == 1
    assert set(written(folder / "local.ndjson")[0]) == set(lines[0])


async def test_compare_shows_a_table_and_a_plot_here_and_through_a_service(
    folder: Path, paceline: RunCommand, serve: StartServer, upstream: ScriptedUpstream
) -> None:
    upstream.script("*", respond_with(json={}, delay_s=0.005))
    flags = (
        "-n",
        "10",
        "--strategies",
        "bounded",
        "--strategies",
        "adaptive",
        "--engines",
        "aiohttp",
        "--engines",
        "httpx",
    )
    server = await serve({"upstreams": {"api": upstream_config(upstream.url)}})
    here = await paceline("compare", upstream.url + "/x", *flags)
    there = await run_in_process("compare", upstream.url + "/x", *flags, "--server", server.base_url)
    for ran in (here, there):
        assert ran.exit_code == 0, ran.stderr
        assert max(map(len, ran.stdout.splitlines())) <= 80
        assert "\x1b" not in ran.stdout
        for row in ("bounded aiohttp", "bounded httpx", "adaptive aiohttp", "adaptive httpx"):
            assert ran.stdout.count(row) == 2
    assert len(upstream.requests) == 2 * 4 * 10


async def test_the_demo_shows_who_is_refused_and_who_is_not(folder: Path, paceline: RunCommand) -> None:
    ran = await paceline("demo", "-n", "40", "--limit", "20", "--per", "500ms")
    assert ran.exit_code == 0, ran.stdout + ran.stderr
    rows = {line.split()[0]: line.split() for line in ran.stdout.splitlines() if len(line.split()) == 10}
    for strategy in ("sequential", "concurrent", "bounded", "token_bucket", "adaptive"):
        assert int(rows[strategy][6]) + int(rows[strategy][7]) == 40
    assert int(rows["concurrent"][8]) >= 10
    assert rows["adaptive"][6:9] == ["40", "0", "0"]
    assert "adaptive got 40 of 40" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 110
    assert ran.stderr == ""


async def test_help_names_every_command_and_version_the_version(folder: Path, paceline: RunCommand) -> None:
    told = await run_in_process("--help")
    for command in ("serve", "run", "plan", "compare", "demo", "upstreams", "check-config"):
        assert f"  {command} " in told.stdout
        assert (await run_in_process(command, "--help")).exit_code == 0
    assert "schema" not in told.stdout
    assert (await paceline("--version")).stdout.startswith("paceline ")


async def test_schema_and_check_config_are_wired(folder: Path, paceline: RunCommand) -> None:
    assert json.loads((await paceline("schema")).stdout)["title"] == "Paceline"
    (folder / "bad.yaml").write_text("upstreamz: {}\n")
    ran = await run_in_process("check-config", "bad.yaml")
    assert ran.exit_code == 1
    assert "upstreamz" in ran.stderr


def test_the_command_starts_without_what_it_does_not_need(folder: Path) -> None:
    code = f"import sys, paceline.__main__; print([name for name in {HEAVY!r} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "[]"


def test_a_command_without_a_server_does_not_import_the_client_of_one(folder: Path) -> None:
    (folder / "in.ndjson").write_text('{"upstream":"nobody","path":"/"}\n')
    code = (
        "import sys, paceline.__main__ as cli\ntry:\n    cli.main()\nexcept SystemExit:\n"
        "    print('httpx2' in sys.modules, file=sys.stderr)\n"
    )
    for arguments in (("run", "in.ndjson"), ("plan", "in.ndjson")):
        ran = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=True
        )
        assert ran.stderr.splitlines()[-1] == "False"


def lines_of(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def out_without_last(file: Path) -> Path:
    """A copy without the torn last line."""
    copy = file.with_suffix(".whole")
    whole, _, _ = file.read_bytes().rpartition(b"\n")
    copy.write_bytes(whole + b"\n")
    return copy
