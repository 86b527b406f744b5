"""httpbin, an upstream of third parties: installed into `.venv-httpbin` and served on loopback.

    python tests/support/httpbin.py

installs it if what is there is not what httpbin-requirements.txt says; the tests do the same when they need it.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

REQUIREMENTS = Path(__file__).with_name("httpbin-requirements.txt")
HOME = Path(__file__).parents[2] / ".venv-httpbin"
START_TIMEOUT_S = 60.0
_LISTENING = re.compile(r"Listening at: (http://\S+)")


def ensure_installed() -> Path:
    """The interpreter of an environment that holds exactly the pinned requirements; makes it if need be."""
    python = HOME / "bin" / "python"
    HOME.mkdir(exist_ok=True)
    with (HOME / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs may start at once
        stamp = HOME / REQUIREMENTS.name
        if not stamp.exists() or stamp.read_text() != REQUIREMENTS.read_text():
            venv.create(HOME, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
            stamp.write_text(REQUIREMENTS.read_text())
    return python


@contextmanager
def serve_httpbin(log: Path) -> Iterator[str]:
    """Serve httpbin with 64 threads and keep-alive while the context is open; gives its base URL."""
    argv = [ensure_installed(), "-m", "gunicorn", "--worker-class", "gthread", "--threads", "64", "--keep-alive", "30"]
    argv += ["--no-control-socket", "--bind", "127.0.0.1:0", "httpbin:app"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GUNICORN_")}
    with log.open("wb") as sink:
        running = subprocess.Popen(argv, stdout=sink, stderr=sink, cwd=log.parent, env=environment)
    try:
        yield _wait_until_answering(running, log)
    finally:
        running.terminate()
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _wait_until_answering(running: subprocess.Popen[bytes], log: Path) -> str:
    direct = build_opener(ProxyHandler({}))
    give_up = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < give_up and running.poll() is None:
        if match := _LISTENING.search(log.read_text()):
            try:
                with direct.open(match[1] + "/get", timeout=5):
                    return match[1]
            except URLError:
                pass  # it listens before its worker is up
        time.sleep(0.05)
    raise AssertionError(f"httpbin did not start:\n{log.read_text()}")


if __name__ == "__main__":
    sys.stdout.write(f"httpbin is installed: {ensure_installed()}\n")
