"""The functions that docs/architecture.md lists for one request: a traced request calls them in that order."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from support.in_process_api import one_upstream_config, start_api
from tools.architecture import PAGE, SOURCE
from tools.scripted_upstream import ScriptedUpstream

_ROW = re.compile(r"^\| [0-9]+ \| `([\w/.]+\.py)` \| `([\w.]+)` \|", re.MULTILINE)

Step = tuple[str, str]


def documented_walk() -> list[Step]:
    text = PAGE.read_text("utf-8")
    walk = text[text.index("<!-- walk: begin -->") : text.index("<!-- walk: end -->")]
    return [(file, function) for file, function in _ROW.findall(walk)]


async def traced_calls(upstream: ScriptedUpstream) -> list[Step]:
    """The functions of the product that a batch of one item calls, each at its first call."""
    calls: dict[Step, None] = {}

    def record_call(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(SOURCE):
            calls.setdefault((path.relative_to(SOURCE).as_posix(), frame.f_code.co_qualname))

    async with start_api(one_upstream_config(upstream.url)) as api:
        sys.setprofile(record_call)
        try:
            response = await api.request("POST", "/v1/batch", {"requests": [{"upstream": "api", "path": "/x"}]})
        finally:
            sys.setprofile(None)
    assert response.body["summary"]["succeeded"] == 1
    return list(calls)


async def test_a_request_calls_what_the_page_lists_in_its_order(upstream: ScriptedUpstream) -> None:
    walk, calls = documented_walk(), await traced_calls(upstream)
    assert len(walk) >= 15
    assert [step for step in walk if step not in calls] == []
    assert sorted(walk, key=calls.index) == walk


def test_the_way_down_never_returns_to_a_file_that_it_left() -> None:
    files = [file for file, _ in documented_walk()]
    down = files[: files.index("transport/connector.py") + 1]
    assert [file for index, file in enumerate(down) if file in down[:index] and down[index - 1] != file] == []
