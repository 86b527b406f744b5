"""The real command as its users run it, and the upstreams it calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from support import httpbin as third_party
from tools.paceline_server import PacelineServer, RunCommand, StartServer, run_paceline, start_server
from tools.scripted_upstream import ScriptedUpstream


@pytest.fixture(scope="session")
def httpbin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of httpbin, which nobody here wrote."""
    with third_party.serve_httpbin(tmp_path_factory.mktemp("httpbin") / "log") as url:
        yield url


@pytest.fixture
async def serve(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[StartServer]:
    """Start `paceline serve` with a configuration: `server = await serve({"upstreams": ...})`.

    At the end it gets SIGTERM, must exit 0 and must have logged no traceback. It asks for `upstream` so that the
    server has ended before the upstream does.
    """
    async with AsyncExitStack() as stack:
        started = 0

        async def start(config: dict[str, Any], *arguments: str, env: dict[str, str] | None = None) -> PacelineServer:
            nonlocal started
            started += 1
            file = tmp_path / f"paceline-{started}.yaml"
            return await stack.enter_async_context(start_server(config, file, *arguments, env=env))

        yield start


@pytest.fixture
def paceline() -> RunCommand:
    """Run `paceline` with these arguments to its end: `ran = await paceline("check-config", str(file))`."""
    return run_paceline
