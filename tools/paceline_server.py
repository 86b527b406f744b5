"""`paceline serve` as a child of the test, with a configuration the test writes, and the other commands."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import aiohttp
import yaml

from paceline.__main__ import main
from tools.processes import LISTENING_PATTERN, START_TIMEOUT_S, ChildProcess, clean_environment, start_process
from tools.waiting import wait_until

PACELINE = (sys.executable, "-m", "paceline")


class PacelineServer:
    """The service, ready. `http` is a session on its base URL: `async with server.http.post("/v1/batch", ...)`."""

    def __init__(self, base_url: str, running: ChildProcess, http: aiohttp.ClientSession) -> None:
        self.base_url = base_url
        self.process = running
        self.http = http

    def output(self) -> str:
        """Everything it has printed so far."""
        return self.process.output()

    def terminate(self) -> None:
        """Ask it to drain and end."""
        self.process.send_signal(signal.SIGTERM)

    async def wait_for_exit(self) -> int:
        """Wait for its end and return the exit code."""
        return await self.process.wait_for_exit()

    async def post(self, path: str, body: Any, **options: Any) -> tuple[int, Any]:
        """Send a JSON body; gives the status and the decoded answer, problem documents included."""
        async with self.http.post(path, json=body, **options) as answer:
            return answer.status, await answer.json(content_type=None)

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        async with self.http.get(path, **options) as answer:
            return answer.status, await answer.json(content_type=None)

    async def metrics(self) -> str:
        async with self.http.get("/metrics") as answer:
            assert answer.status == 200
            return await answer.text()


class StartServer(Protocol):
    async def __call__(
        self, config: dict[str, Any], *arguments: str, env: dict[str, str] | None = None
    ) -> PacelineServer: ...


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A command that has ended."""

    exit_code: int
    stdout: str
    stderr: str


class RunCommand(Protocol):
    async def __call__(
        self, *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None
    ) -> CommandResult: ...


def upstream_config(base_url: str, **policy: Any) -> dict[str, Any]:
    """An upstream's configuration, on loopback and so private."""
    return {"base_url": base_url, "allow_private": True, **policy}


@asynccontextmanager
async def start_server(
    config: dict[str, Any], file: Path, *arguments: str, env: dict[str, str] | None = None
) -> AsyncIterator[PacelineServer]:
    """Serve a configuration; at the end SIGTERM, exit code 0, no traceback."""
    argv = (*PACELINE, "serve", "--config", _write_config(config, file), "--port", "0", *arguments)
    async with start_process(*argv, env=env) as running:
        base_url = (await running.wait_for_output(LISTENING_PATTERN))[1]
        async with aiohttp.ClientSession(base_url, cookie_jar=aiohttp.DummyCookieJar()) as http:
            await wait_until_ready(http, running)
            yield PacelineServer(base_url, running, http)
        running.send_signal(signal.SIGTERM)
        code = await running.wait_for_exit()
        assert code == 0, f"exit code {code}:\n{running.output()}"
        assert "Traceback" not in running.output(), running.output()


async def run_paceline(*arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> CommandResult:
    """Run a command to its end."""
    async with start_process(*PACELINE, *arguments, stdin=stdin, env=env) as running:
        code = await running.wait_for_exit()
    return CommandResult(code, "\n".join(running.stdout), "\n".join(running.stderr))


async def run_in_process(*arguments: str) -> CommandResult:
    """Run a command in a thread of this process: for what it says and does, where how it starts is tested elsewhere.

    It costs a tenth of a child; a command that takes signals or the standard input needs one.
    """

    def call_main() -> CommandResult:
        stdout, stderr = StringIO(), StringIO()
        with (
            redirect_stdout(stdout),
            redirect_stderr(stderr),
            mock.patch.object(sys, "argv", ["paceline", *arguments]),
            mock.patch.dict(os.environ, clean_environment(), clear=True),
        ):
            try:
                main()
            except SystemExit as ended:
                code = ended.code
            else:
                raise AssertionError("the command did not exit")
        assert isinstance(code, int)
        return CommandResult(code, stdout.getvalue(), stderr.getvalue())

    return await asyncio.to_thread(call_main)


def _write_config(config: dict[str, Any], file: Path) -> str:
    file.write_text(yaml.safe_dump(config))
    return str(file)


async def wait_until_ready(http: aiohttp.ClientSession, running: ChildProcess) -> None:
    """Ask `/readyz` until it is 200.

    Raises:
        AssertionError: it never was; the message holds what the command said.
    """

    async def is_ready() -> bool:
        async with http.get("/readyz") as answer:
            return answer.status == 200

    try:
        await wait_until(is_ready, timeout_s=START_TIMEOUT_S, interval_s=0.02)
    except TimeoutError:
        raise AssertionError(f"not ready within {START_TIMEOUT_S} s:\n{running.output()}") from None
