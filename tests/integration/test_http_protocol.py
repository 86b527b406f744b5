"""uvicorn is the one that `api/server/` was checked with, and has what is replaced there.

A new minor version: run `test_malformed_requests.py`, `test_pipelined_requests.py`, `test_slow_clients.py`,
`test_upgrade_offers.py` and `test_drain.py` with it, read its diff of `httptools_impl.py` and `server.py`, and move
`CHECKED` here and the range in pyproject.toml.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from paceline.api.server.http_protocol import HardenedProtocol
from paceline.api.server.uvicorn_server import UvicornServer

CHECKED = ["0.53", "0.54"]
"""Minor versions of uvicorn that the tests named above passed with."""


def test_the_installed_uvicorn_is_a_checked_one():
    assert ".".join(version("uvicorn").split(".")[:2]) in CHECKED


def test_pyproject_allows_the_checked_versions_only():
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    (requirement,) = [each for each in project["dependencies"] if re.match(r"uvicorn\b", each)]
    first, last = CHECKED[0].split("."), CHECKED[-1].split(".")
    assert requirement == f"uvicorn>={'.'.join(first)},<{last[0]}.{int(last[1]) + 1}"


@pytest.mark.parametrize(("ours", "theirs"), [(HardenedProtocol, HttpToolsProtocol), (UvicornServer, uvicorn.Server)])
def test_what_is_replaced_exists_and_takes_the_same(ours: type, theirs: type):
    replaced = {name for name in vars(ours) if not name.startswith("_")} & set(dir(theirs))
    assert replaced
    for name in {*replaced, "_unsupported_upgrade_warning"} & set(vars(ours)):
        ours_takes = inspect.signature(getattr(ours, name)).parameters
        assert list(ours_takes) == list(inspect.signature(getattr(theirs, name)).parameters), name


def test_what_is_reached_into_exists():
    """State that `HardenedProtocol` reads or sets without replacing a method."""
    assert {"_unset_keepalive_if_required", "send_400_response", "shutdown"} <= set(vars(HttpToolsProtocol))
    made = inspect.getsource(HttpToolsProtocol.__init__) + inspect.getsource(RequestResponseCycle.__init__)
    for name in (
        *("parser", "pipeline", "flow", "cycle", "headers", "transport", "server_state", "timeout_keep_alive_task"),
        *("disconnected", "message_event", "more_body", "response_started", "response_complete"),
    ):
        assert f"self.{name}" in made, name
