from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tools import paceline_server, processes
from tools.processes import start_process

STAND_IN = """
import signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Ready(BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Ready.asked += 1
        content = b'{"asked": %d}' % Ready.asked
        self.send_response(200 if Ready.asked > 1 else 503)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *_):
        pass

def stop(*_):
    sys.exit(EXIT)

signal.signal(signal.SIGTERM, stop)
listener = HTTPServer(("127.0.0.1", 0), Ready)
SAY
print(f"listening on http://127.0.0.1:{listener.server_port}", file=sys.stderr, flush=True)
listener.serve_forever()
"""


def stands_in(monkeypatch: pytest.MonkeyPatch, *, exits: str = "0", says: str = "") -> None:
    script = STAND_IN.replace("EXIT", exits).replace("SAY", says)
    monkeypatch.setattr(paceline_server, "PACELINE", (sys.executable, "-c", script))


async def test_a_server_is_given_once_it_is_ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stands_in(monkeypatch)
    config = {
        "upstreams": {"api": paceline_server.upstream_config("http://127.0.0.1:1", rate=[{"limit": 5, "per": "1s"}])}
    }
    async with paceline_server.start_server(config, tmp_path / "paceline.yaml") as started:
        assert await started.get("/anything") == (200, {"asked": 3})  # 503, 200, this
        assert started.process.argv[-4:] == ("--config", str(tmp_path / "paceline.yaml"), "--port", "0")
    assert "allow_private: true" in (tmp_path / "paceline.yaml").read_text()


async def test_a_bad_exit_code_fails_the_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stands_in(monkeypatch, exits="3")
    starting = paceline_server.start_server({}, tmp_path / "paceline.yaml")
    await starting.__aenter__()
    with pytest.raises(AssertionError, match="exit code 3"):
        await starting.__aexit__(None, None, None)


async def test_a_traceback_in_the_log_fails_the_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stands_in(monkeypatch, says="print('Traceback (most recent call last):')")
    starting = paceline_server.start_server({}, tmp_path / "paceline.yaml")
    await starting.__aenter__()
    with pytest.raises(AssertionError, match="Traceback"):
        await starting.__aexit__(None, None, None)


async def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stands_in(monkeypatch, says="sys.exit('upstreams.api.base_url: is missing')")
    with pytest.raises(AssertionError, match="base_url: is missing"):
        await paceline_server.start_server({}, tmp_path / "paceline.yaml").__aenter__()


async def test_a_command_that_ignores_sigterm_is_killed_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "EXIT_TIMEOUT_S", 0.3)
    deaf = "import signal as s; s.signal(s.SIGTERM, s.SIG_IGN); print('deaf', flush=True); s.pause()"
    starting = start_process(sys.executable, "-c", deaf)
    running = await starting.__aenter__()
    await running.wait_for_output(re.compile("deaf"))
    with pytest.raises(AssertionError, match="ignored SIGTERM"):
        await starting.__aexit__(None, None, None)
    with pytest.raises(ProcessLookupError):
        os.kill(running.pid, 0)


async def test_a_command_gets_its_input_and_its_streams_are_kept_apart() -> None:
    script = "import sys; print(sys.stdin.read().upper()); print('aside', file=sys.stderr); sys.exit(4)"
    async with start_process(sys.executable, "-c", script, stdin=b"words") as running:
        assert await running.wait_for_exit() == 4
    assert (running.stdout, running.stderr) == (["WORDS"], ["aside"])


async def test_a_command_does_not_inherit_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PACELINE_LOG", "HTTP_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "ours")
    script = "import os; print([v for v in os.environ.values() if v in ('ours', 'given')])"
    async with start_process(sys.executable, "-c", script, env={"PACELINE_LOG": "given"}) as running:
        assert await running.wait_for_exit() == 0
    assert running.stdout == ["['given']"]
