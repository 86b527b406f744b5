"""The whole batch contract through the real command, on both engines, with httpbin and scripted upstreams."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.scripted import (
    ScriptedUpstream,
    dripping,
    early_hints,
    endless,
    garbage,
    hangs_up,
    reset,
    silent,
    truncated,
)
from support.server import Server, StartServer, declared

Start = Callable[..., Awaitable[Server]]

PARTS = ("queue_ms", "rate_wait_ms", "pause_ms", "backoff_ms", "upstream_ms")


@pytest.fixture(params=["aiohttp", "httpx"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(serve: StartServer, upstream: ScriptedUpstream, engine: str) -> Start:
    """The service with the scripted upstream declared as `api`, and whatever else is given."""

    async def started(
        more: dict[str, Any] | None = None, server: dict[str, Any] | None = None, **policy: Any
    ) -> Server:
        others = {name: {**other, "engine": engine} for name, other in (more or {}).items()}
        config: dict[str, Any] = {"upstreams": {"api": declared(upstream.url, engine=engine, **policy), **others}}
        if server is not None:
            config["server"] = server
        return await serve(config)

    return started


def item(path: str, **fields: Any) -> dict[str, Any]:
    return {"upstream": "api", "path": path, **fields}


async def batch(server: Server, requests: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    """The outcomes, after checking what is true of every batch: all there, in order, counted, adding up."""
    status, answer = await server.post("/v1/batch", {"requests": requests, **fields})
    assert status == 200, answer
    outcomes: list[dict[str, Any]] = answer["responses"]
    assert [outcome["index"] for outcome in outcomes] == list(range(len(requests)))
    assert [outcome["id"] for outcome in outcomes] == [each.get("id", str(n)) for n, each in enumerate(requests)]
    summary = answer["summary"]
    assert summary["total"] == len(requests) == summary["succeeded"] + summary["failed"] + summary["rejected"]
    assert summary["attempts"] == sum(outcome["attempts"] for outcome in outcomes)
    for outcome in outcomes:
        timing = outcome["timing"]
        gap = timing["total_ms"] - sum(timing[part] for part in PARTS)
        assert -1 <= gap <= max(40.0, 0.1 * timing["total_ms"]), timing  # a busy test machine stretches our own part
        assert (outcome["error"] is None) == (outcome["outcome"] == "success")
    return outcomes


async def test_what_an_item_says_reaches_httpbin_and_what_it_answers_comes_back(start: Start, httpbin: str) -> None:
    server = await start({"bin": declared(httpbin)})
    asked = [
        {"upstream": "bin", "path": "/get?fixed=1", "params": {"q": ["a b", "ü"], "z": ""}, "headers": {"X-One": "1"}},
        {"upstream": "bin", "path": "/anything", "method": "post", "json": {"deep": [1, None, "é"]}},
        {"upstream": "bin", "path": "/anything", "method": "PUT", "json": None},
        {"upstream": "bin", "path": "/anything", "method": "PATCH", "body": "plain ü"},
        {
            "upstream": "bin",
            "path": "/anything",
            "method": "POST",
            "body_base64": base64.b64encode(b"\x00\xff").decode(),
        },
        {"upstream": "bin", "path": "/gzip"},
        {"upstream": "bin", "path": "/brotli"},
        {"upstream": "bin", "path": "/deflate"},
        {"upstream": "bin", "path": "/bytes/64?seed=1"},
        {"upstream": "bin", "path": "/html"},
        {"upstream": "bin", "path": "/get", "method": "HEAD"},
        {"upstream": "bin", "path": "/status/204"},
        {"upstream": "bin", "path": "/status/418"},
        {"upstream": "bin", "path": "/redirect/1"},
        {"url": f"{httpbin}/uuid", "expect": "text"},
        {"upstream": "bin", "path": "/uuid", "expect": "base64"},
        {"upstream": "bin", "path": "/uuid", "expect": "none"},
        {"upstream": "bin", "path": "/response-headers?Set-Cookie=a%3D1&Set-Cookie=b%3D2"},
    ]
    seen = await batch(server, asked)
    assert seen[0]["body"]["args"] == {"fixed": "1", "q": ["a b", "ü"], "z": ""}
    assert seen[0]["body"]["headers"]["X-One"] == "1"
    assert seen[0]["body"]["headers"]["User-Agent"].startswith("paceline/")
    assert seen[1]["body"]["json"] == {"deep": [1, None, "é"]}
    assert seen[1]["body"]["method"] == "POST"
    assert seen[2]["body"]["data"] == "null"
    assert (seen[3]["body"]["data"], seen[3]["body"]["headers"]["Content-Type"]) == (
        "plain ü",
        "text/plain; charset=utf-8",
    )
    assert base64.b64decode(seen[4]["body"]["data"].partition("base64,")[2]) == b"\x00\xff"
    assert [seen[n]["body"][key] for n, key in ((5, "gzipped"), (6, "brotli"), (7, "deflated"))] == [True] * 3
    assert not {"content-encoding", "content-length"} & set(seen[5]["headers"])
    assert (seen[8]["body_encoding"], len(base64.b64decode(seen[8]["body"]))) == ("base64", 64)
    assert seen[9]["body_encoding"] == "text"
    assert [(seen[n]["body"], seen[n]["body_encoding"]) for n in (10, 11, 16)] == [(None, "none")] * 3
    assert (seen[12]["outcome"], seen[12]["status"]) == ("http_error", 418)
    assert seen[12]["error"]["code"] == "http_status"
    assert (seen[13]["outcome"], seen[13]["status"]) == ("success", 302)
    assert json.loads(seen[14]["body"])["uuid"]
    assert seen[14]["upstream"] == "bin"  # a plain URL belongs to the upstream whose base URL it starts with
    assert json.loads(base64.b64decode(seen[15]["body"]))["uuid"]
    assert sorted(seen[17]["headers"]["set-cookie"]) == ["a=1", "b=2"]


async def test_defaults_lie_under_every_item(start: Start, upstream: ScriptedUpstream) -> None:
    server = await start()
    defaults = {
        "upstream": "api",
        "method": "POST",
        "headers": {"x-both": "default", "x-default": "yes"},
        "params": {"page": "1", "size": "9"},
        "expect": "none",
    }
    mine = {"path": "/a", "headers": {"X-Both": "mine"}, "params": {"page": "2"}, "method": "GET", "expect": "text"}
    upstream.answer(body="x")
    outcomes = await batch(server, [mine, {"path": "/b"}], defaults=defaults)
    first, second = sorted(upstream.requests, key=lambda received: received.path)
    assert (first.method, first.header("x-both"), first.header("x-default")) == ("GET", "mine", "yes")
    assert (second.method, second.header("x-both")) == ("POST", "default")
    assert [outcome["body"] for outcome in outcomes] == ["x", None]
    assert "page=2" in first.target
    assert "size=9" in first.target


async def test_every_way_to_fail_has_its_outcome_and_code(start: Start, upstream: ScriptedUpstream) -> None:
    bomb = gzip.compress(b"\0" * 30_000_000)
    acts = {
        "/reset": reset(),
        "/hangs-up": hangs_up(),
        "/truncated": truncated(),
        "/garbage": garbage(),
        "/silent": silent(),
        "/drip": dripping(every_s=0.02),
        "/hints": early_hints(),
        "/endless": endless(),
    }
    for path, act in acts.items():
        upstream.play(path, act)
    upstream.answer("/bomb", headers={"content-encoding": "gzip"}, body=bomb)
    upstream.answer("/throttled", status=429, headers={"retry-after": "3600"})
    upstream.answer("/broken", status=500)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else can take it
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        server = await start(
            {
                "nobody": declared(nobody),
                "nowhere": {"base_url": "http://nowhere.invalid"},
                "nottls": declared(upstream.url.replace("http:", "https:")),
            },
            retry={"attempts": 1},
            timeout={"attempt": 0.5},
            max_response="1MiB",
        )
        asked = [item(path, expect="none") for path in (*acts, "/bomb", "/throttled", "/broken")]
        asked += [
            {"upstream": "nobody", "path": "/", "retry": {"attempts": 1}},
            {"upstream": "nowhere", "path": "/", "retry": {"attempts": 1}},
            {"upstream": "nottls", "path": "/", "retry": {"attempts": 1}},
            item("/silent", timeout="300ms"),
            {"url": "http://user:secret@example.com/"},
            {"url": "ftp://example.com/"},
            {"upstream": "unheard-of", "path": "/"},
            {"url": "http://127.0.0.1:1/"},
            {"url": "http://169.254.169.254/latest/meta-data"},
            item("/ok", method="BAD METHOD"),
            item("/ok", headers={"bad name": "x"}),
            item("/ok"),
        ]
        outcomes = await batch(server, asked, strategy="concurrent", deadline="20s")
    told = [
        (
            outcome["outcome"],
            outcome["error"] and outcome["error"]["code"],
            outcome["error"] and outcome["error"]["sent"],
        )
        for outcome in outcomes
    ]
    broken = ("protocol_error", "protocol_error", True)
    late = ("timeout", "attempt_timeout", True)
    assert told[:4] == [broken] * 4
    assert told[4:6] == [late] * 2
    assert told[6] in (broken, late)
    assert told[7:9] == [("too_large", "body_too_large", True)] * 2
    assert told[9] == ("http_error", "throttled", True)
    assert outcomes[9]["error"]["retry_after_ms"] == 3_600_000
    assert told[10] == ("http_error", "http_status", True)
    assert told[11:14] == [
        ("connect_error", "connect_failed", False),
        ("connect_error", "dns_failed", False),
        ("connect_error", "tls_failed", False),
    ]
    assert told[14] == ("timeout", "item_timeout", True)
    refused = [code for _, code, _ in told[15:22]]
    assert refused == [
        "invalid_request",
        "invalid_request",
        "unknown_upstream",
        "egress_denied",
        "egress_denied",
        "invalid_request",
        "invalid_request",
    ]
    assert {(kind, sent) for kind, _, sent in told[15:22]} == {("rejected", False)}
    assert "secret" not in json.dumps(outcomes)
    assert told[22] == ("success", None, None)


async def test_failures_are_tried_again_and_throttles_waited_out(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.answer("/flaky", status=503, times=2)
    upstream.answer("/limited", status=429, headers={"retry-after": "1"}, times=1)
    upstream.answer("/unsafe", status=503)
    upstream.answer("/keyed", status=503, times=1)
    server = await start(idempotency_header=None)
    flaky, limited, unsafe, keyed = await batch(
        server,
        [
            item("/flaky"),
            item("/limited"),
            item("/unsafe", method="POST"),
            item("/keyed", method="POST", headers={"Idempotency-Key": "k1"}),
        ],
        strategy="concurrent",
    )
    assert (flaky["outcome"], flaky["attempts"]) == ("success", 3)
    assert flaky["timing"]["backoff_ms"] > 0
    assert (limited["outcome"], limited["attempts"]) == ("success", 2)
    assert limited["timing"]["pause_ms"] >= 990
    assert (unsafe["outcome"], unsafe["attempts"]) == ("http_error", 1)
    assert (keyed["outcome"], keyed["attempts"]) == ("success", 2)
    assert {received.header("idempotency-key") for received in upstream.received("/keyed")} == {"k1"}


async def test_order_dependencies_and_halt(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.answer("/bad", status=404)
    server = await start()
    outcomes = await batch(
        server,
        [
            item("/last", id="c", depends_on=["b"]),
            item("/first", id="a"),
            item("/middle", id="b", dependsOn=["a"]),
            item("/bad", id="bad"),
            item("/never", id="never", depends_on=["bad"]),
        ],
    )
    assert [outcome["outcome"] for outcome in outcomes] == ["success"] * 3 + ["http_error", "dependency_failed"]
    order = [received.path for received in upstream.requests if received.path in ("/first", "/middle", "/last")]
    assert order == ["/first", "/middle", "/last"]
    assert not upstream.received("/never")
    halted = await batch(server, [item("/bad"), item("/x"), item("/y")], strategy="sequential", on_failure="halt")
    assert [outcome["outcome"] for outcome in halted] == ["http_error", "rejected", "rejected"]
    assert {outcome["error"]["code"] for outcome in halted[1:]} == {"halted"}


@pytest.mark.parametrize("strategy", ["sequential", "concurrent", "bounded", "token_bucket", "adaptive"])
async def test_every_strategy_keeps_a_declared_limit_and_its_own(
    start: Start, upstream: ScriptedUpstream, strategy: str
) -> None:
    upstream.answer(delay_s=0.01)
    server = await start(rate=[{"limit": 20, "per": "500ms"}], transit="200ms", concurrency={"limit": 10})
    own: dict[str, Any] = {"max_concurrency": 4} if strategy in ("bounded", "token_bucket", "adaptive") else {}
    if strategy == "token_bucket":
        own["rate"] = {"limit": 100, "per": "1s"}
    outcomes = await batch(server, [item(f"/{n}") for n in range(50)], strategy=strategy, **own)
    assert {outcome["outcome"] for outcome in outcomes} == {"success"}
    assert upstream.most_within(0.49) <= 20
    assert upstream.in_hand_max <= {"sequential": 1, "concurrent": 10}.get(strategy, 4)


async def test_the_deadline_ends_what_is_left_and_nothing_is_lost(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.answer("/slow", delay_s=30)
    server = await start(rate=[{"limit": 2, "per": "1h"}])
    outcomes = await batch(server, [item("/slow"), item("/quick"), *(item("/queued") for _ in range(5))], deadline="1s")
    codes = [outcome["error"] and outcome["error"]["code"] for outcome in outcomes]
    assert codes[:2] == ["deadline_exceeded", None]
    assert set(codes[2:]) <= {"deadline_unreachable", "deadline_exceeded"}
    assert all(outcome["timing"]["total_ms"] <= 1_400 for outcome in outcomes)
    assert not any(outcome["error"]["sent"] for outcome in outcomes[2:])


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
async def test_a_stream_holds_the_same_outcomes_as_they_complete(
    start: Start, upstream: ScriptedUpstream, accept: str
) -> None:
    upstream.answer("/slow", delay_s=0.3, json={"a": 1})
    upstream.answer("/quick", body='{"pretty":\n 1}', headers={"content-type": "application/json"})
    server = await start()
    body = {"requests": [item("/slow", id="slow"), item("/quick", id="quick")]}
    async with server.http.post("/v1/batch", json=body, headers={"accept": accept}) as answer:
        assert answer.status == 200
        assert answer.content_type == accept
        text = await answer.text()
    if accept == "text/event-stream":
        events = [dict(line.split(": ", 1) for line in event.splitlines()) for event in text.strip().split("\n\n")]
        assert [event["event"] for event in events] == ["item", "item", "summary"]
        seen = [json.loads(event["data"]) for event in events]
    else:
        seen = [json.loads(line) for line in text.splitlines()]
    assert [each.get("id") for each in seen] == ["quick", "slow", None]
    assert seen[0]["body"] == {"pretty": 1}
    assert seen[-1]["summary"]["succeeded"] == 2


async def test_a_caller_that_hangs_up_takes_its_sockets_along(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.play("/silent", silent())
    server = await start(concurrency={"limit": 5})
    asking = asyncio.create_task(server.post("/v1/batch", {"requests": [item("/silent") for _ in range(20)]}))
    await upstream.until(lambda it: it.in_hand == 5)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await upstream.until(lambda it: it.in_hand == 0 and it.open_connections == 0)
    _, state = await server.get("/v1/upstreams/api")
    assert (state["in_flight"], state["queued"]) == (0, 0)


async def test_sigterm_finishes_what_is_in_flight_and_refuses_the_new(start: Start, upstream: ScriptedUpstream) -> None:
    release = asyncio.Event()
    upstream.answer("/held", hold=release)
    server = await start()
    asking = asyncio.create_task(batch(server, [item("/held") for _ in range(5)]))
    await upstream.until(lambda it: it.in_hand == 5)
    server.terminate()
    for _ in range(100):
        status, _ = await server.get("/readyz")
        if status == 503:
            break
        await asyncio.sleep(0.02)
    assert status == 503
    refused, problem = await server.post("/v1/batch", {"requests": [item("/x")]})
    assert (refused, problem["code"]) == (503, "draining")
    release.set()
    outcomes = await asking
    assert [outcome["outcome"] for outcome in outcomes] == ["success"] * 5
    assert await server.ended() == 0


async def test_no_secret_and_no_caller_text_is_in_logs_or_metrics(start: Start, upstream: ScriptedUpstream) -> None:
    secret, key = "s3cr3t-upstream-token", "s3cr3t-api-key-0123456789"
    server = await start(
        auth={"bearer": secret},
        server={"api_keys": [{"name": "reports", "key": key, "upstreams": ["api"], "max_priority": "normal"}]},
    )
    status, problem = await server.post("/v1/batch", {"requests": [item("/x")]})
    assert (status, problem["code"]) == (401, "unauthorized")
    server.http.headers["Paceline-Key"] = key
    before = len((await server.metrics()).splitlines())
    await batch(server, [item("/x", headers={"authorization": "Bearer mine"})])
    first = len((await server.metrics()).splitlines())
    outcomes = await batch(
        server,
        [item(f"/y{n}?token=callers-s3cr3t", id=f"weird-{n}", headers={"x": "callers-s3cr3t"}) for n in range(200)]
        + [{"url": "http://elsewhere.example/"}],
        priority="interactive",
    )
    assert outcomes[-1]["error"]["code"] == "forbidden_upstream"
    assert {received.header("authorization") for received in upstream.requests} == {f"Bearer {secret}"}
    assert not any(received.header("paceline-key") for received in upstream.requests)
    text = await server.metrics()
    assert before < first
    grown = {line.partition("{")[0] for line in text.splitlines()} - {"x"}
    assert len(text.splitlines()) - first <= 80, grown  # the rejection and its strategy, once: not one for each item
    await batch(server, [item(f"/z{n}", id=f"other-{n}") for n in range(200)])
    assert len((await server.metrics()).splitlines()) == len(text.splitlines())
    for told in (server.logs(), text, json.dumps(outcomes)):
        assert secret not in told
        assert key not in told
    for told in (server.logs(), text):
        assert "callers-s3cr3t" not in told
        assert "weird-" not in told
