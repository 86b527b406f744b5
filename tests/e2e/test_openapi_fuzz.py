"""The service against its own OpenAPI document: schemathesis, every check, through the real command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools.paceline_server import StartServer, upstream_config
from tools.processes import start_process
from tools.scripted_upstream import ScriptedUpstream

# The document cannot say that ids are unique, that what is depended on exists, or that a burst is no more than its
# limit: a body that only breaks one of those is refused with 422, and that is not against it.
SETTINGS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 406, 409, 413, 422, 429, 503]
"""
WITHIN_S = 300.0


# A comparison rests until its upstream's windows are free, and another case may just have retuned them to an hour: it
# has a service of its own.
@pytest.mark.parametrize("paths", [("--exclude-path", "/v1/compare"), ("--include-path", "/v1/compare")])
@pytest.mark.parametrize("examples", [3, pytest.param(100, marks=pytest.mark.verify)])
async def test_nothing_that_is_sent_makes_the_service_break_its_own_description(
    serve: StartServer, upstream: ScriptedUpstream, tmp_path: Path, paths: tuple[str, str], examples: int
) -> None:
    upstream.script_response(json={"ok": True})
    server = await serve(
        {
            "upstreams": {name: upstream_config(upstream.url) for name in ("github", "openai", "api")},
            "compare": {"target": {"upstream": "api", "path": "/"}},
            "egress": {"mode": "declared"},
            # What pauses an upstream, or slows it down, must not make every later batch wait for long.
            "server": {"max_items": 20, "max_deadline": "300ms"},
        }
    )
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(SETTINGS)
    command = (
        sys.executable,
        *("-m", "schemathesis.cli", "--config-file", str(settings), "run", f"{server.base_url}/openapi.json", *paths),
        *(
            "--checks",
            "all",
            "--max-examples",
            str(examples),
            "--seed",
            "1",
            "--generation-deterministic",
            "--no-color",
        ),
    )
    async with start_process(*command) as running:
        code = await running.wait_for_exit(timeout_s=WITHIN_S)
        assert code == 0, running.output()[-6_000:]
    status, _ = await server.get("/healthz")
    assert status == 200
