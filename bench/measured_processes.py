"""The processes that a bench measures, each on its own, and the CPU time that each used.

Synchronous, so that no event loop of the bench shares their CPU; tests start the same ones with `tools.processes`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.processes import LISTENING_PATTERN


@contextmanager
def start_demo_api(*arguments: str) -> Iterator[str]:
    """Start the demo API; yields its base URL."""
    command = [sys.executable, "-m", "paceline.demo.server", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield _listening_url(running.stdout.readline())
        finally:
            running.terminate()


@contextmanager
def start_service(config: dict[str, Any], folder: Path) -> Iterator[tuple[str, int]]:
    """Start `paceline serve` with this configuration; yields its base URL and process id."""
    file = folder / "paceline.yaml"
    file.write_text(json.dumps(config))
    log = folder / "serve.log"
    command = [sys.executable, "-m", "paceline", "serve", "--config", str(file), "--port", "0"]
    with (
        log.open("w") as stdout_log,
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=stdout_log, text=True) as running,
    ):
        try:
            assert running.stderr is not None
            yield _listening_url(running.stderr.readline()), running.pid
        finally:
            running.terminate()
            running.communicate()


def post_json(url: str, body: bytes) -> dict[str, Any]:
    """POST JSON and return the decoded response."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        decoded: dict[str, Any] = json.load(answer)
        return decoded


def process_cpu_s(pid: int) -> float:
    """Return the CPU seconds that all threads of a process have used, as the scheduler counts them."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def _listening_url(line: str) -> str:
    found = LISTENING_PATTERN.search(line)
    if found is None:
        raise RuntimeError(f"did not start: {line!r}")
    return found[1]
