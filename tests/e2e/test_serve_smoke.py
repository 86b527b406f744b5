from __future__ import annotations

from tools.demo_server import StartDemo
from tools.paceline_server import StartServer, upstream_config
from tools.scripted_upstream import ScriptedUpstream


async def test_one_batch_reaches_a_scripted_upstream_and_one_nobody_here_wrote(
    serve: StartServer, upstream: ScriptedUpstream, httpbin: str
) -> None:
    upstream.script_response("/x", status=503, times=1)
    server = await serve({"upstreams": {"api": upstream_config(upstream.url), "bin": upstream_config(httpbin)}})
    status, answer = await server.post(
        "/v1/batch",
        {"requests": [{"upstream": "api", "path": "/x"}, {"upstream": "bin", "path": "/brotli"}]},
    )
    assert status == 200
    assert [outcome["status"] for outcome in answer["responses"]] == [200, 200]
    assert [outcome["attempts"] for outcome in answer["responses"]] == [2, 1]
    assert len(upstream.requests_to("/x")) == 2


async def test_a_declared_limit_is_used_and_never_passed(serve: StartServer, demo_upstream: StartDemo) -> None:
    api = await demo_upstream(limit=20, per="500ms")
    rate = [{"limit": 20, "per": "500ms"}]
    server = await serve({"upstreams": {"api": upstream_config(api.url, rate=rate)}})
    status, answer = await server.post(
        "/v1/batch", {"requests": [{"upstream": "api", "path": f"/items/{n}"} for n in range(60)]}
    )
    assert status == 200
    assert answer["summary"]["succeeded"] == 60
    stats = await api.stats()
    assert (stats["accepted"], stats["refused"]) == (60, 0)


async def test_every_path_that_answers_get_answers_head(serve: StartServer, upstream: ScriptedUpstream) -> None:
    server = await serve({"upstreams": {"api": upstream_config(upstream.url)}})
    _, document = await server.get("/openapi.json")
    paths = [path for path, operations in document["paths"].items() if "get" in operations and "{" not in path]
    assert "/healthz" in paths
    for path in (*paths, "/v1/upstreams/api", "/docs", "/docs/swagger-ui.css", "/openapi.json"):
        async with server.http.head(path) as response:
            assert (path, response.status, await response.read()) == (path, 200, b"")
