"""What a hostile or careless caller, a nosy upstream and a curious reader of logs get: nothing."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.shared_service import outcome_kinds, send_batch
from tools.paceline_server import PacelineServer, RunCommand, StartServer, upstream_config
from tools.scripted_upstream import ScriptedUpstream, disconnect, send_garbage

SECRETS = {
    "bearer": "s3cr3t-bearer-token",
    "password": "s3cr3t-password",
    "header": "s3cr3t-header-value",
    "proxy": "s3cr3t-proxy-word",
    "key": "s3cr3t-api-key-0123456789",
    "other": "s3cr3t-second-key-0123456789",
    "caller": "s3cr3t-of-the-caller",
}


@pytest.mark.parametrize("engine", ["aiohttp", "httpx"])
async def test_no_secret_is_in_any_output(
    serve: StartServer, upstream: ScriptedUpstream, paceline: RunCommand, tmp_path: Path, engine: str
) -> None:
    upstream.script("/garbage", send_garbage())
    upstream.script("/hangs-up", disconnect())
    upstream.script_response("/refused", status=401)
    (tmp_path / "token").write_text(SECRETS["bearer"] + "\n")
    config = {
        "server": {
            "api_keys": [
                {"name": "reports", "key": "${env:REPORTS_KEY}", "upstreams": ["bearer", "basic", "header", "proxied"]},
                {"name": "second", "key": SECRETS["other"], "max_priority": "bulk"},
            ]
        },
        "upstreams": {
            "bearer": upstream_config(upstream.url, engine=engine, auth={"bearer": f"${{file:{tmp_path}/token}}"}),
            "basic": upstream_config(
                upstream.url, engine=engine, auth={"basic": {"user": "u", "password": SECRETS["password"]}}
            ),
            "header": upstream_config(
                upstream.url, engine=engine, auth={"header": {"name": "x-api-key", "value": SECRETS["header"]}}
            ),
            "proxied": upstream_config(
                "http://127.0.0.1:9", engine=engine, proxy=upstream.url.replace("//", f"//u:{SECRETS['proxy']}@")
            ),
        },
    }
    environment = {"REPORTS_KEY": SECRETS["key"], "PACELINE_LOG_LEVEL": "debug"}
    server = await serve(config, env=environment)
    outputs: list[str] = []
    status, problem = await server.post("/v1/batch", {"requests": [{"upstream": "bearer", "path": "/"}]})
    assert (status, problem["code"]) == (401, "unauthorized")
    status, problem = await server.get("/v1/upstreams", headers={"paceline-key": SECRETS["key"] + "x"})
    assert (status, problem["code"]) == (401, "unauthorized")
    server.http.headers["Authorization"] = f"Bearer {SECRETS['key']}"
    asked = [
        {
            "upstream": name,
            "path": f"{path}?token={SECRETS['caller']}",
            "headers": {"authorization": SECRETS["caller"], "paceline-key": SECRETS["key"]},
            "json": {"password": SECRETS["caller"]},
        }
        for name in ("bearer", "basic", "header", "proxied")
        for path in ("/fine", "/garbage", "/hangs-up", "/refused")
    ]
    outcomes = await send_batch(server, [*asked, {"url": f"http://u:{SECRETS['caller']}@elsewhere.example/"}])
    assert outcome_kinds(outcomes)[-1][0] == "rejected"
    outcomes = [outcome for outcome in outcomes if outcome["outcome"] != "success"]  # those hold what the upstream said
    (elsewhere,) = await send_batch(server, [{"url": "http://elsewhere.example/"}])
    assert outcome_kinds([elsewhere]) == [("rejected", "forbidden_upstream", False)]
    outputs.append(json.dumps([outcomes, elsewhere]))
    for path in ("/v1/upstreams", "/v1/upstreams/bearer", "/v1/upstreams/proxied", "/openapi.json", "/v1/strategies"):
        async with server.http.get(path) as answer:
            assert answer.status == 200
            outputs.append(await answer.text())
    outputs += [await server.metrics(), server.output()]
    checked = await paceline("check-config", str(tmp_path / "paceline-1.yaml"), env=environment)
    assert checked.exit_code == 0
    outputs += [checked.stdout, checked.stderr]
    for output in outputs:
        for secret in SECRETS.values():
            assert secret not in output
    sent = {request.header("authorization") for request in upstream.requests if request.path == "/fine"}
    assert f"Bearer {SECRETS['bearer']}" in sent
    assert SECRETS["caller"] not in {each for each in sent if each and each.startswith(("Bearer", "Basic"))}
    assert {request.header("x-api-key") for request in upstream.requests} == {None, SECRETS["header"]}
    assert not any(request.header("paceline-key") for request in upstream.requests)


BASE: dict[str, Any] = {
    "strategy": "adaptive",
    "max_concurrency": 5,
    "rate": {"limit": 1000, "per": "1s", "burst": 10, "unit": "requests"},
    "deadline": "1s",
    "priority": "normal",
    "on_failure": "continue",
    "retry": {"attempts": 1, "throttles": 1},
    "defaults": {"method": "GET", "headers": {"a": "b"}, "params": {"c": ["d"]}, "timeout": "1s", "expect": "auto"},
    "requests": [
        {
            "id": "a",
            "upstream": "api",
            "path": "/x",
            "params": {"q": "1"},
            "json": {"a": 1},
            "cost": {"requests": 1},
            "timeout": "500ms",
            "retry": {"attempts": 1},
            "expect": "text",
            "idempotent": True,
        },
        {"id": "b", "url": "http://10.0.0.1/", "body": "x", "depends_on": ["a"], "headers": {"x": ["1", "2"]}},
        {"id": "c", "url": "https://unheard.invalid/x?y#z", "body_base64": "AA==", "dependsOn": []},
    ],
}
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e-300, 1e308, 2**63, 2**64, 10**400, "", "x", "a", "\0", "é\U0001f600",
    " ", "%00%ff%", "1s", "0s", "-1s", "1e9s",
    "NaN", "9" * 30 + "d", "GET", "../../x", "http://[::1", "http://\u2028.invalid/",
    "a" * 70_000, "\r\nx: y", [], [[]], ["a", "a"], [None], {}, {"": ""}, {"a": None}, {"__class__": 1}, {"limit": 0},
    {"a": {"b": {"c": []}}}, {"requests": -1}, {"requests": 1e308, "tokens": 5}, [{}], [{"url": ""}],
]  # fmt: skip
RAW: list[bytes] = [
    b"", b" ", b"{", b"nul", b"[]", b"{}", b"\xff", b"\xef\xbb\xbf{}", b"\x00", b"[" * 100_000, b'{"a":' * 50_000,
    b'{"requests":[{"url":"\\ud800"}]}', b'{"requests":[{"url":"http://x.invalid/","id":"\\ud800"}]}',
    b'{"requests":[{"upstream":"api","path":"/\\u0000"}]}',
    b'{"requests":[{"upstream":"api","path":"/x","json":\xff}]}',
    b'{"requests":[{"upstream":"api","path":"/x"}],"requests":[]}', b'{"deadline":NaN,"requests":[{}]}',
    b'{"deadline":1e999,"requests":[{"upstream":"api"}]}', b'{"deadline":-Infinity}',
    b'{"requests":' + b"9" * 5_000 + b"}",
    b'{"requests":[{"upstream":"api","path":"/x","json":{"a":"\\ud800"}}]}',
    b'{"requests":[{"upstream":"api","path":"/x","method":"POST","json":' + b"[" * 5_000 + b"]" * 5_000 + b"}]}",
    b'{"requests":[' + b"{}," * 1_500 + b"{}]}", b'{"requests":"' + b"x" * 300_000 + b'"}',
]  # fmt: skip


async def test_no_body_makes_a_fault_of_the_service(serve: StartServer, upstream: ScriptedUpstream) -> None:
    """A seeded walk: each place of a good body is taken by each odd value; then bodies that are hardly JSON."""
    server = await serve(
        {
            "server": {"max_body": "256KiB", "max_deadline": "1s", "max_items": 1000},
            "egress": {"mode": "declared"},
            "upstreams": {"api": upstream_config(upstream.url)},
            "compare": {"target": {"upstream": "api", "path": "/x"}},
        }
    )
    await send(server, "/v1/batch", json.dumps(BASE).encode(), {200})
    places = list(leaves(BASE))
    chosen = random.Random(11)
    bodies = []
    for odd in ODD:
        for place in chosen.sample(places, 9):
            changed = copy.deepcopy(BASE)
            put(changed, place, odd)
            bodies.append(json.dumps(changed).encode())
    refusals = {400, 413, 422}
    for start in range(0, len(bodies), 20):
        await asyncio.gather(
            *(send(server, "/v1/batch", body, {200, *refusals}) for body in bodies[start : start + 20])
        )
    one = {**BASE["requests"][0], "deadline": "1s", "priority": "bulk"}
    compare = {"request": {"upstream": "api", "path": "/x"}, "n": 2, "strategies": ["bounded"], "max_concurrency": 2}
    for odd in ODD:
        changed = copy.deepcopy(one)
        put(changed, chosen.choice(list(leaves(one))), odd)
        await send(server, "/v1/fetch", json.dumps(changed).encode(), {200, *refusals})
        changed = copy.deepcopy(compare)
        put(changed, chosen.choice(list(leaves(compare))), odd)
        await send(server, "/v1/compare", json.dumps(changed).encode(), {200, *refusals})
        patch = {chosen.choice(["paused", "rate", "reset"]): odd}
        await send(server, "/v1/upstreams/api", json.dumps(patch).encode(), {200, *refusals}, method="PATCH")
        await send(server, "/v1/upstreams/api", b'{"reset": true, "paused": false}', {200}, method="PATCH")
    for body in RAW:
        for path in ("/v1/batch", "/v1/fetch", "/v1/compare"):
            await send(server, path, body, {200, *refusals})
        await send(server, "/v1/upstreams/api", body, {*refusals, 200}, method="PATCH")
    for content_type in (
        "text/plain",
        "application/jsonx",
        "multipart/form-data; boundary=x",
        "application/x-ndjson",
        "",
    ):
        await send(server, "/v1/batch", b"{}", {415}, content_type=content_type)
    for path in (
        "/v1/batch/",
        "/v1/batch%00",
        "/../etc/passwd",
        "/v1/upstreams/%2e%2e",
        "/sync/-1",
        "/sync/x",
        "/async/1e3",
    ):
        async with server.http.get(path) as answer:
            assert answer.status in (404, 405, 422), path
    assert "internal" not in server.output()
    status, _ = await server.get("/healthz")
    assert status == 200  # and at its end the fixture finds no traceback


async def send(
    server: PacelineServer,
    path: str,
    body: bytes,
    expected: set[int],
    *,
    method: str = "POST",
    content_type: str = "application/json",
) -> None:
    """Send it and see that a refusal is a problem document that names its code."""
    async with server.http.request(method, path, data=body, headers={"content-type": content_type}) as answer:
        text = await answer.text()
        assert answer.status in expected, (path, body[:300], text[:300])
        if answer.status >= 400:
            problem = json.loads(text)
            assert answer.content_type == "application/problem+json"
            assert (problem["status"], bool(problem["code"]), bool(problem["detail"])) == (answer.status, True, True)
            assert len(text) < 2_000, text[:300]  # whatever was sent, it is not sent back


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every place in a JSON value, containers included."""
    if path:
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in children:
        yield from leaves(below, (*path, key))


def put(value: Any, path: tuple[Any, ...], odd: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = odd
