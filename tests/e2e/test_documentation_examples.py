"""Every example of README.md and docs/api.md, sent to the real service as it stands there."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from tools.paceline_server import PacelineServer, start_server, upstream_config
from tools.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "docs/api.md")}
HOSTS = {"github": "https://api.github.com", "example": "https://api.example.com"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PacelineServer]:
    """The service with the upstreams that the examples name, all of them on loopback."""
    async with ScriptedUpstream() as upstream:
        upstreams = {name: upstream_config(f"{upstream.url}/{name}") for name in HOSTS}
        config = {"upstreams": upstreams, "compare": {"target": {"upstream": "example", "path": "/get"}}}
        async with start_server(config, tmp_path_factory.mktemp("documents") / "paceline.yaml") as serving:
            for name, host in HOSTS.items():
                here[host] = f"{upstream.url}/{name}"
            yield serving


here: dict[str, str] = {}
"""Where the public hosts of the examples are in this test."""


def commands() -> list[tuple[str, str]]:
    """Every curl command of the two pages."""
    found = []
    for page, text in PAGES.items():
        for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL):
            found += [(page, command) for command in re.findall(r"curl (?:[^'\n]|'[^']*')*", block)]
    return found


async def test_there_are_examples_to_try() -> None:
    assert {page for page, _ in commands()} == set(PAGES)


@pytest.mark.parametrize(("page", "command"), commands(), ids=[page for page, _ in commands()])
async def test_a_curl_command_does_what_its_page_says(server: PacelineServer, page: str, command: str) -> None:
    for public, local in here.items():
        command = command.replace(public, local)
    words = shlex.split(command)
    url = next(word for word in words if re.match(r"(http://)?(localhost|127\.0\.0\.1):8080/", word))
    path = re.sub(r"^(http://)?[^/]+", "", url)
    options = list(pairwise(words))
    headers = dict(value.split(": ", 1) for flag, value in options if flag == "-H")
    body = next((value for flag, value in options if flag == "-d"), None)
    method = next((value for flag, value in options if flag == "-X"), "GET" if body is None else "POST")
    async with server.http.request(method, path, headers=headers, data=body) as answer:
        assert answer.status == 200, await answer.text()
        said = await answer.json()
    if path == "/v1/batch":
        assert said["summary"]["succeeded"] == said["summary"]["total"] == len(json.loads(body or "")["requests"])


async def test_the_answer_of_a_batch_has_the_fields_that_are_shown(server: PacelineServer) -> None:
    shown = next(
        json.loads(block)
        for block in re.findall(r"```json\n(.*?)```", PAGES["docs/api.md"], re.DOTALL)
        if '"batch_id"' in block
    )
    status, answer = await server.post("/v1/batch", {"requests": [{"upstream": "example", "path": "/a"}]})
    assert status == 200
    assert shape(answer) == shape(shown)


@pytest.mark.parametrize("body", re.findall(r"^\| `(\{.*?\})` \|", PAGES["docs/api.md"], re.MULTILINE))
async def test_a_change_of_an_upstream_that_is_shown_is_taken(server: PacelineServer, body: str) -> None:
    async with server.http.patch("/v1/upstreams/example", json=json.loads(body)) as answer:
        assert answer.status == 200, await answer.text()
    async with server.http.patch("/v1/upstreams/example", json={"reset": True, "paused": False}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(("path", "count"), [("/sync/3", 3), ("/async/3", 3), ("/async_sem/4/2", 4)])
async def test_the_classic_forms_answer_as_shown(server: PacelineServer, path: str, count: int) -> None:
    status, answer = await server.get(path)
    assert (status, set(answer)) == (200, {"message", "status_codes"})
    assert answer["status_codes"] == [200] * count


async def test_every_get_of_the_table_of_paths_answers(server: PacelineServer) -> None:
    rows = re.findall(r"^\| (`(?:GET|/).*?) \|", PAGES["docs/api.md"], re.MULTILINE)
    paths = [path for row in rows for path in re.findall(r"(/[\w/{}]+)", row)]
    assert len(paths) >= 9
    values = {"{name}": "example", "{num_requests}": "2", "{max_concurrent}": "1", "{upstream}": "example"}
    for path in paths:
        for name, value in values.items():
            path = path.replace(name, value)
        async with server.http.get(path) as answer:
            assert answer.status == 200, path


async def test_the_readme_s_configuration_can_be_served(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGES["README.md"], re.DOTALL)
    assert blocks
    for block in blocks:
        async with start_server(yaml.safe_load(block), tmp_path / "r.yaml", env={"GITHUB_TOKEN": "any"}) as served:
            status, listed = await served.get("/v1/upstreams")
            assert (status, bool(listed["upstreams"])) == (200, True)


def shape(value: Any) -> Any:
    """Names and kinds, without the values: what an example promises; free-form parts by their kind alone."""
    if isinstance(value, dict):
        return {
            key: type(below).__name__ if key in ("headers", "body") else shape(below) for key, below in value.items()
        }
    if isinstance(value, list):
        return [shape(below) for below in value]
    return "number" if isinstance(value, int | float) else type(value).__name__
