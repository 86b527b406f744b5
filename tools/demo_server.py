"""The demo API (`python -m paceline.demo.server`) as a child process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.request import Request, urlopen

from tools.processes import LISTENING_PATTERN, ChildProcess, start_process


class DemoUpstream:
    """The demo API, running; `url` has no trailing slash."""

    def __init__(self, url: str, running: ChildProcess) -> None:
        self.url = url
        self.process = running

    async def stats(self) -> dict[str, Any]:
        """What it counted: accepted, refused, first_at, last_at, in_flight_max, arrivals..."""
        return dict(json.loads(await self._call("GET", "/stats")))

    async def reset(self) -> None:
        await self._call("POST", "/reset")

    async def _call(self, method: str, path: str) -> bytes:
        def call() -> bytes:
            with urlopen(Request(self.url + path, method=method), timeout=30) as response:
                return bytes(response.read())

        return await asyncio.to_thread(call)


class StartDemo(Protocol):
    async def __call__(
        self, *, limit: int, per: str = "1s", latency: str = "0ms", **more: str | bool
    ) -> DemoUpstream: ...


@asynccontextmanager
async def start_demo(*, limit: int, **options: str | bool) -> AsyncIterator[DemoUpstream]:
    """Run the demo API; `retry_after=True` becomes `--retry-after`, `jitter="5ms"` becomes `--jitter 5ms`."""
    argv = [sys.executable, "-m", "paceline.demo.server", "--port", "0", "--limit", str(limit)]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            argv.append(flag)
        elif value is not False:
            argv += [flag, str(value)]
    async with start_process(*argv) as running:
        yield DemoUpstream((await running.wait_for_output(LISTENING_PATTERN))[1], running)
        running.send_signal(signal.SIGTERM)
        assert await running.wait_for_exit() == 0, running.output()
        assert running.stderr == []
