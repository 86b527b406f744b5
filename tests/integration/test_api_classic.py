"""The classic forms: `/sync`, `/async` and `/async_sem`."""

from __future__ import annotations

from typing import Any

import pytest

from support.in_process_api import one_upstream_config, start_api
from tools.scripted_upstream import ScriptedUpstream, disconnect


def classic(url: str, **policy: Any) -> dict[str, Any]:
    return one_upstream_config(url, **policy) | {"compare": {"target": {"upstream": "api", "path": "/get"}}}


@pytest.mark.parametrize(
    ("path", "most_at_once"), [("/sync/6", (1, 1)), ("/async/6", (2, 6)), ("/async_sem/6/2", (1, 2))]
)
async def test_the_classic_forms_differ_in_how_many_fly(
    upstream: ScriptedUpstream, path: str, most_at_once: tuple[int, int]
):
    upstream.script_response("/get", delay_s=0.05)
    async with start_api(classic(upstream.url)) as api:
        answer = await api.request("GET", path)
    assert answer.status == 200
    assert list(answer.body) == ["message", "status_codes"]
    assert answer.body["status_codes"] == [200] * 6
    assert "6 of 6" in answer.body["message"]
    assert most_at_once[0] <= upstream.in_progress_max <= most_at_once[1]


async def test_the_classic_forms_try_each_request_once_and_on_httpx(upstream: ScriptedUpstream, monkeypatch):
    upstream.script_response("/get", status=503, times=1)
    upstream.script("/get", disconnect(), times=1)
    upstream.script_response("/get", status=200)
    async with start_api(classic(upstream.url)) as api:
        opened, seen = api.service.runner.open_run, []
        monkeypatch.setattr(api.service.runner, "open_run", lambda batch: seen.append(batch) or opened(batch))
        answer = await api.request("GET", "/sync/3")
    assert answer.body["status_codes"] == [503, 0, 200]  # 0: no answer
    assert len(upstream.requests) == 3
    assert [batch.engine for batch in seen] == ["httpx"]


async def test_a_classic_form_of_no_size_is_422(upstream: ScriptedUpstream):
    refused = {
        "/sync/0": "num_requests",
        "/sync/-1": "num_requests",
        "/sync/1.5": "num_requests",
        "/sync/many": "num_requests",
        "/async/1001": "num_requests",
        "/async/99999999999999999999": "num_requests",
        "/async_sem/0/5": "num_requests",
        "/async_sem/5/0": "max_concurrent",
        "/async_sem/5/x": "max_concurrent",
    }
    async with start_api(classic(upstream.url)) as api:
        for path, field in refused.items():
            answer = await api.request("GET", path)
            assert (answer.status, answer.body["field"]) == (422, field), path
    assert upstream.requests == []


async def test_without_a_target_the_fix_is_named(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url)) as api:
        answer = await api.request("GET", "/async/5")
    assert (answer.status, answer.body["code"]) == (409, "no_compare_target")
    assert "compare.target" in answer.body["detail"]
