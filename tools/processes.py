"""Child processes of a test or a bench: started, read line by line, ended by SIGTERM, judged by their exit code."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

LISTENING_PATTERN = re.compile(r"listening on (https?://\S+)")
START_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 60.0


class ChildProcess:
    """One running command. `lines` grows as it prints; stdout and stderr are kept apart."""

    def __init__(self, process: Process, argv: Sequence[str], stdin: bytes) -> None:
        self.process = process
        self.argv = argv
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._output_changed = asyncio.Event()
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(process.stdout, self.stdout)),
            asyncio.create_task(self._read(process.stderr, self.stderr)),
        ]
        self._writer = asyncio.create_task(self._write(process.stdin, stdin))

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        """Everything printed so far, stdout first."""
        return "\n".join([*self.stdout, *self.stderr])

    async def wait_for_output(self, pattern: re.Pattern[str], *, timeout_s: float = START_TIMEOUT_S) -> re.Match[str]:
        """Wait for a line, on either stream, that has `pattern` in it.

        Raises:
            AssertionError: it ended, or the time is over; the message holds what it said.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while (match := pattern.search(self.output())) is None:
                    if all(reader.done() for reader in self._readers):
                        raise AssertionError(f"{' '.join(self.argv)} ended:\n{self.output()}")
                    self._output_changed.clear()
                    await self._output_changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {pattern.pattern!r} within {timeout_s} s:\n{self.output()}") from None
        return match

    async def wait_for_exit(self, *, timeout_s: float | None = None) -> int:
        """Wait for the end and return the exit code, with everything it printed read."""
        async with asyncio.timeout(EXIT_TIMEOUT_S if timeout_s is None else timeout_s):
            code = await self.process.wait()
            await asyncio.gather(*self._readers, self._writer)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def _write(self, stream: asyncio.StreamWriter | None, content: bytes) -> None:
        if stream is not None:
            stream.write(content)
            with suppress(ConnectionError):  # it may end without reading all of it
                await stream.drain()
            stream.close()

    async def _read(self, stream: asyncio.StreamReader, into: list[str]) -> None:
        while line := await stream.readline():
            into.append(line.decode(errors="replace").rstrip("\n"))
            self._output_changed.set()
        self._output_changed.set()


def clean_environment() -> dict[str, str]:
    """Ours, without our proxies and PACELINE_* settings."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.upper().endswith("_PROXY") and not name.startswith("PACELINE_")
    }


@asynccontextmanager
async def start_process(
    *argv: str, stdin: bytes = b"", env: dict[str, str] | None = None
) -> AsyncIterator[ChildProcess]:
    """Run a command, without our proxies and PACELINE_* settings; whatever happens it is gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        limit=64 * 1024 * 1024,
        env={**clean_environment(), "PYTHONUNBUFFERED": "1", **(env or {})},
    )
    running = ChildProcess(process, argv, stdin)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            await running.wait_for_exit()
        except TimeoutError:
            running.send_signal(signal.SIGKILL)
            await running.wait_for_exit()
            raise AssertionError(f"{' '.join(argv)} ignored SIGTERM:\n{running.output()}") from None
