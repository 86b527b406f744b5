"""The batch contract through the real command, on both engines, with httpbin and a scripted upstream."""

from __future__ import annotations

import asyncio
import base64
import email.utils
import gzip
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from support.shared_service import ENGINES, SharedService, check_outcomes, outcome_kinds, send_batch, shared_service
from tools.paceline_server import upstream_config
from tools.scripted_upstream import (
    Handler,
    Peer,
    ReceivedRequest,
    disconnect,
    drip_body,
    never_respond,
    reset_connection,
    respond_with,
    response_head,
    send_early_hints,
    send_garbage,
    send_raw,
    stream_forever,
    truncate_body,
)
from tools.sliding_window import max_within

pytestmark = pytest.mark.asyncio(loop_scope="module")

STRATEGIES = ["sequential", "concurrent", "bounded", "token_bucket", "adaptive"]
STRICT = {"rate": [{"limit": 20, "per": "500ms"}], "transit": "200ms", "concurrency": {"limit": 10}}
QUICK = {"base": "10ms", "cap": "20ms", "budget_per_s": 1000}
POLICIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "second": {},
    "faults": {
        "retry": {"attempts": 1},
        "timeout": {"attempt": 0.5},
        "max_response": "1MiB",
        "breaker": {"min_calls": 99},
    },
    "again": {"retry": QUICK},
    "keyed": {"retry": QUICK, "idempotency_header": "Idempotency-Key"},
    "throttling": {},
    "patient": {"timeout": {"attempt": "300ms"}, "retry": QUICK},
    "sick": {"retry": {"attempts": 1}, "breaker": {"min_calls": 4, "open": "20s", "max_open": "20s"}},
    "halting": {},
    "scarce": {"rate": [{"limit": 2, "per": "1h"}]},
    "priced": {
        "rate": [{"limit": 6, "per": "500ms"}, {"limit": 100, "per": "1s", "unit": "tokens"}],
        "transit": "200ms",
    },
    "own-rate": {},
    "own-beat": {},
    **{f"strict-{strategy.replace('_', '-')}": STRICT for strategy in STRATEGIES},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, httpbin: str
) -> AsyncIterator[SharedService]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else can take it
        others = {
            "bin": upstream_config(httpbin),
            "nobody": upstream_config(f"http://127.0.0.1:{taken.getsockname()[1]}"),
            "nowhere": {"base_url": "http://nowhere.invalid"},
            "nottls": upstream_config(httpbin.replace("http:", "https:")),
        }
        server = {"max_batch_response": "3MiB"}
        folder = tmp_path_factory.mktemp(f"contract-{request.param}")
        async with shared_service(request.param, POLICIES, folder, external=others, server=server) as service:
            yield service


async def test_what_an_item_says_reaches_httpbin_and_what_it_answers_comes_back(
    shared: SharedService, httpbin: str
) -> None:
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
        {"upstream": "bin", "path": "/cookies/set?kept=no"},
        {"upstream": "bin", "path": "/cookies", "headers": {"cookie": "mine=1"}},
        {"upstream": "bin", "path": "/digest-auth/auth/user/passwd"},
        {"upstream": "bin", "path": "/stream/3", "expect": "text"},
    ]
    seen = await send_batch(shared.server, asked)
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
    assert seen[18]["status"] == 302  # not followed, and its cookie is not kept for anybody
    assert seen[19]["body"] == {"cookies": {"mine": "1"}}
    assert (seen[20]["outcome"], seen[20]["status"]) == ("http_error", 401)
    assert seen[20]["headers"]["www-authenticate"].startswith("Digest")
    assert len(seen[21]["body"].splitlines()) == 3


async def test_defaults_lie_under_every_item(shared: SharedService) -> None:
    api = shared.upstream_named("plain")
    api.script_response("/text", body="x")
    defaults = {
        "upstream": "plain",
        "method": "POST",
        "headers": {"x-both": "default", "x-default": "yes"},
        "params": {"page": "1", "size": "9"},
        "expect": "none",
    }
    mine = {
        "path": "/text?own=1",
        "headers": {"X-Both": ["mine", "too"]},
        "params": {"page": ["2", "3"]},
        "method": "GET",
        "expect": "text",
    }
    outcomes = await send_batch(
        shared.server, [mine, {"path": "/bare"}, {"upstream": "second", "path": "/"}], defaults=defaults
    )
    (first,), (second,) = api.requests_to("/text"), api.requests_to("/bare")
    assert (first.method, first.header("x-default")) == ("GET", "yes")
    assert [value for name, value in first.headers if name.lower() == "x-both"] == ["mine", "too"]
    assert first.target.partition("?")[2] == "own=1&page=2&page=3&size=9"
    assert (second.method, second.header("x-both")) == ("POST", "default")
    assert [outcome["body"] for outcome in outcomes] == ["x", None, None]
    assert [outcome["upstream"] for outcome in outcomes] == ["plain", "plain", "second"]


@pytest.mark.parametrize(
    ("content_type", "sent", "body", "encoding"),
    [
        ("application/json", b'{"a":\n[1.0, "\xc3\xa9"]}', {"a": [1.0, "é"]}, "json"),
        ("application/problem+json; charset=utf-8", b"null", None, "json"),
        ("application/json", b'{"a": NaN}', '{"a": NaN}', "text"),
        ("application/json", b'"\\ud800"', '"\\ud800"', "text"),
        ("application/json", b"\xff\xfe", base64.b64encode(b"\xff\xfe").decode(), "base64"),
        ("text/plain; charset=iso-8859-1", b"\xe9", "é", "text"),
        ("image/svg+xml", b"<svg/>", "<svg/>", "text"),
        ("text/plain; charset=utf-7", b"+2AA-", base64.b64encode(b"+2AA-").decode(), "base64"),
        ("application/x-unheard-of", b"plain", base64.b64encode(b"plain").decode(), "base64"),
        ("application/json", b"", None, "none"),
    ],
)
async def test_a_body_is_given_back_as_what_it_is(
    shared: SharedService, content_type: str, sent: bytes, body: object, encoding: str
) -> None:
    api = shared.upstream_named("plain")
    api.script_response("/body", headers={"content-type": content_type}, body=sent, times=1)
    (outcome,) = await send_batch(shared.server, [api.item("/body")])
    assert (outcome["body"], outcome["body_encoding"]) == (body, encoding)


async def test_header_fields_of_the_connection_stay_on_the_connection(shared: SharedService) -> None:
    api = shared.upstream_named("plain")
    fields = {"x-one": "1", "keep-alive": "timeout=5", "upgrade": "h3", "set-cookie": "a=1"}
    api.script(
        "/fields",
        send_raw(response_head(200, {**fields, "content-length": "0"})[:-2] + b"X-One: 2\r\nSet-Cookie: b=2\r\n\r\n"),
    )
    hop = {
        "connection": "x-mine",
        "x-mine": "1",
        "te": "trailers",
        "upgrade": "h2c",
        "host": "evil.example",
        "x-end": "1",
    }
    (outcome,) = await send_batch(shared.server, [api.item("/fields", headers=hop)])
    assert {name: outcome["headers"].get(name) for name in fields} == {
        "x-one": "1, 2",
        "keep-alive": None,
        "upgrade": None,
        "set-cookie": ["a=1", "b=2"],
    }
    (seen,) = api.requests_to("/fields")
    assert [seen.header(name) for name in ("x-mine", "te", "upgrade", "x-end")] == [None, None, None, "1"]
    assert seen.header("host") == shared.upstream.url.removeprefix("http://")


async def test_every_way_to_fail_has_its_outcome_and_code(shared: SharedService) -> None:
    api = shared.upstream_named("faults")
    broken = ("protocol_error", "protocol_error", True)
    late = ("timeout", "attempt_timeout", True)
    large = ("too_large", "body_too_large", True)
    acts: dict[str, tuple[Handler, tuple[str, str, bool]]] = {
        "/reset": (reset_connection(), broken),
        "/reset-in-its-head": (reset_connection(b"HTTP/1.1 200 OK\r\ncontent-le"), broken),
        "/reset-in-its-body": (reset_connection(response_head(200, {"content-length": "99"}) + b"x"), broken),
        "/hangs-up": (disconnect(), broken),
        "/truncated": (truncate_body(), broken),
        "/cut-chunk": (send_raw(response_head(200, {"transfer-encoding": "chunked"}) + b"ff\r\nx", close=True), broken),
        "/garbage": (send_garbage(), broken),
        "/stacked": (respond_with(headers={"content-encoding": "gzip, br"}, body=b"x"), broken),
        "/silent": (never_respond(), late),
        "/drip": (drip_body(every_s=0.02), late),
        "/endless": (stream_forever(), large),
        "/bomb": (respond_with(headers={"content-encoding": "gzip"}, body=gzip.compress(b"\0" * 30_000_000)), large),
        "/throttled": (respond_with(status=429, headers={"retry-after": "3600"}), ("http_error", "throttled", True)),
        "/broken": (respond_with(status=500), ("http_error", "http_status", True)),
        "/missing": (respond_with(status=404), ("http_error", "http_status", True)),
    }
    for path, (act, _) in acts.items():
        api.script(path, act)
    api.script("/hints", send_early_hints())
    # Only what is late of itself may be: on a busy machine anything takes half a second.
    asked = [api.item(path, **({} if expected == late else {"timeout": "25s"})) for path, (_, expected) in acts.items()]
    asked += [api.item("/hints"), api.item("/silent", timeout="300ms")]
    asked += [{"upstream": name, "path": "/", "retry": {"attempts": 1}} for name in ("nobody", "nowhere", "nottls")]
    began_at = time.perf_counter()
    outcomes = await send_batch(shared.server, asked, strategy="concurrent", deadline="30s")
    assert time.perf_counter() - began_at < 20  # none of them waits for what never comes
    seen = dict(zip(acts, outcome_kinds(outcomes), strict=False))
    assert seen == {path: expected for path, (_, expected) in acts.items()}
    assert outcome_kinds(outcomes)[len(acts)] in (broken, late)
    assert outcome_kinds(outcomes)[len(acts) + 1 :] == [
        ("timeout", "item_timeout", True),
        ("connect_error", "connect_failed", False),
        ("connect_error", "dns_failed", False),
        ("connect_error", "tls_failed", False),
    ]
    assert outcomes[list(acts).index("/throttled")]["error"]["retry_after_ms"] == 3_600_000
    assert {outcome["attempts"] for outcome in outcomes} == {1}
    await shared.upstream.wait_until(lambda it: it.in_progress == 0)  # nothing is left reading or waiting


async def test_an_unusable_item_is_rejected_and_the_others_run(shared: SharedService) -> None:
    api = shared.upstream_named("plain")
    unusable: list[tuple[dict[str, Any], str]] = [
        ({"url": "http://user:hunter2@example.com/"}, "invalid_request"),
        ({"url": "ftp://example.com/"}, "invalid_request"),
        ({"url": "http://"}, "invalid_request"),
        ({"url": "http://example.com:99999/"}, "invalid_request"),
        ({"url": "http://exa mple.com/"}, "invalid_request"),
        ({"url": "http://example.com\\@127.0.0.1/"}, "invalid_request"),
        ({"url": "http://127.1/"}, "invalid_request"),
        ({"url": "http://0x7f000001/"}, "invalid_request"),
        ({"url": "http://2130706433/"}, "invalid_request"),
        ({"path": "/nowhere-to-go"}, "invalid_request"),
        ({}, "invalid_request"),
        ({"url": "http://example.com/", "upstream": "plain", "path": "/"}, "invalid_request"),
        (api.item("/", method="BAD METHOD"), "invalid_request"),
        (api.item("/", method="CONNECT"), "invalid_request"),
        (api.item("/", headers={"bad name": "x"}), "invalid_request"),
        (api.item("/", headers={"x": "two\r\nlines: 1"}), "invalid_request"),
        (api.item("/", body_base64="not base64!"), "invalid_request"),
        (shared.upstream_named("priced").item("/", cost=7), "invalid_request"),
        ({"upstream": "unheard-of", "path": "/"}, "unknown_upstream"),
        ({"url": "http://127.0.0.1:1/"}, "egress_denied"),
        ({"url": "http://localhost/"}, "egress_denied"),
        ({"url": "http://[::1]/"}, "egress_denied"),
        ({"url": "http://[::ffff:127.0.0.1]/"}, "egress_denied"),
        ({"url": "http://[64:ff9b::7f00:1]/"}, "egress_denied"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, "egress_denied"),
        ({"url": "http://10.0.0.1/"}, "egress_denied"),
        ({"url": "http://93.184.216.34:22/"}, "egress_denied"),
        ({"url": f"{shared.server.base_url}/healthz"}, "egress_denied"),
    ]
    ways_out = [api.item("/../second/secret"), api.item("/a/%2e%2e/.%2E/../second/secret#"), api.item("/usable")]
    asked = [*(item for item, _ in unusable), *ways_out]
    before = len(shared.upstream.requests)
    outcomes = await send_batch(shared.server, asked)
    seen = [
        (item, outcome["error"] and outcome["error"]["code"])
        for (item, _), outcome in zip(unusable, outcomes, strict=False)
    ]
    assert seen == unusable
    assert {outcome["outcome"] for outcome in outcomes[: len(unusable)]} == {"rejected"}
    assert outcomes[-1]["outcome"] == "success"
    assert {request.path.split("/")[1] for request in shared.upstream.requests[before:]} == {
        "plain"
    }  # no way out of it
    assert "hunter2" not in json.dumps(outcomes)


async def test_failures_are_tried_again_where_that_is_safe(shared: SharedService) -> None:
    api = shared.upstream_named("again")
    for path in ("/flaky", "/unsafe", "/declared", "/keyed"):
        api.script_response(path, status=503, times=2)
    api.script("/torn", disconnect(), times=1)
    api.script("/torn-unsafe", disconnect(), times=1)
    api.script_response("/wait", status=503, headers={"retry-after": "0.4"}, times=1)
    api.script_response("/final", status=503, headers={"x-should-retry": "false"}, times=1)
    api.script_response("/hopeless", status=502)
    api.script_response("/permanent", status=501)
    post = {"method": "POST", "body": "x"}
    outcomes = await send_batch(
        shared.server,
        [
            api.item("/flaky"),
            api.item("/unsafe", **post),
            api.item("/declared", idempotent=True, **post),
            api.item("/keyed", headers={"Idempotency-Key": "k1"}, **post),
            api.item("/torn"),
            api.item("/torn-unsafe", **post),
            {"upstream": "nobody", "path": "/", "retry": {"attempts": 2}, **post},
            api.item("/final"),
            api.item("/hopeless"),
            api.item("/permanent"),
            api.item("/wait"),
        ],
        strategy="concurrent",
    )
    assert [(outcome["outcome"], outcome["attempts"]) for outcome in outcomes] == [
        ("success", 3),
        ("http_error", 1),  # it may have been done
        ("success", 3),
        ("success", 3),
        ("success", 2),
        ("protocol_error", 1),
        ("connect_error", 2),  # a POST that was certainly never sent
        ("http_error", 1),
        ("http_error", 3),
        ("http_error", 1),
        ("success", 2),
    ]
    assert outcomes[0]["timing"]["backoff_ms"] > 0
    assert {received.header("idempotency-key") for received in api.requests_to("/keyed")} == {"k1"}
    keyed = shared.upstream_named("keyed")
    keyed.script_response("/a", status=503, times=1)
    keyed.script_response("/b", status=503, times=1)
    outcomes = await send_batch(shared.server, [keyed.item("/a", **post), keyed.item("/b", **post)])
    assert [outcome["attempts"] for outcome in outcomes] == [2, 2]
    keys = Counter(received.header("idempotency-key") for received in keyed.requests)
    assert None not in keys
    assert sorted(keys.values()) == [2, 2]  # stable over an item's attempts, another item's is another


async def test_throttles_are_waited_out_and_cost_no_attempt(shared: SharedService) -> None:
    api = shared.upstream_named("throttling")
    date = email.utils.formatdate(time.time() + 2, usegmt=True)
    for n in range(4):
        api.script_response(f"/{n}", status=429, headers={"retry-after": "0.3"}, times=1)
    api.script_response("/date", status=503, headers={"retry-after": date}, times=1)
    api.script_response("/forbidden", status=403, headers={"x-ratelimit-remaining": "0", "retry-after": "0.2"}, times=1)
    asked = [api.item(f"/{n}", method="POST") for n in range(4)] + [api.item("/date"), api.item("/forbidden")]
    outcomes = await send_batch(shared.server, asked)
    assert {outcome["outcome"] for outcome in outcomes} == {"success"}
    assert all(outcome["attempts"] >= 2 for outcome in outcomes)
    assert outcomes[4]["timing"]["pause_ms"] >= 500  # a date has whole seconds
    first, second = api.requests_to("/0")
    assert second.at - first.at >= 0.29
    api.script_response("/once", status=429, headers={"retry-after": "0.1"}, times=1)
    (once,) = await send_batch(shared.server, [api.item("/once", retry={"attempts": 1})])
    assert outcome_kinds([once]) == [("http_error", "throttled", True)]
    assert once["attempts"] == 1


async def test_an_item_s_timeout_is_its_own_and_raises_that_of_its_attempts(shared: SharedService) -> None:
    api = shared.upstream_named("patient")
    api.script_response("/slow", delay_s=0.7)
    slow, longer = await send_batch(
        shared.server, [api.item("/slow", retry={"attempts": 1}), api.item("/slow", timeout="5s")]
    )
    assert outcome_kinds([slow]) == [("timeout", "attempt_timeout", True)]
    assert (longer["outcome"], longer["attempts"]) == ("success", 1)


async def test_an_upstream_that_fails_is_left_alone_until_it_is_reset(shared: SharedService) -> None:
    api = shared.upstream_named("sick")
    api.script_response("/x", status=500, times=4)
    await send_batch(shared.server, [api.item("/x")] * 4, strategy="sequential")
    (refused,) = await send_batch(shared.server, [api.item("/x")], priority="interactive")
    assert outcome_kinds([refused]) == [("rejected", "circuit_open", False)]
    assert 0 < refused["error"]["retry_after_ms"] <= 20_000
    assert (await shared.server.get("/v1/upstreams/sick"))[1]["breaker"] == "open"
    async with shared.server.http.patch("/v1/upstreams/sick", json={"reset": True}) as answer:
        assert (await answer.json())["breaker"] == "closed"
    (served,) = await send_batch(shared.server, [api.item("/x")], priority="interactive")
    assert served["outcome"] == "success"


async def test_order_dependencies_and_halt(shared: SharedService) -> None:
    api = shared.upstream_named("plain")
    api.script_response("/bad", status=404)
    outcomes = await send_batch(
        shared.server,
        [
            api.item("/last", id="c", depends_on=["b"]),
            api.item("/first", id="a"),
            api.item("/middle", id="b", dependsOn=["a"]),
            api.item("/bad", id="bad"),
            api.item("/never", id="never", depends_on=["bad", "a"]),
            api.item("/never", id="nor-this", depends_on=["never"]),
        ],
    )
    assert [outcome["outcome"] for outcome in outcomes] == ["success"] * 3 + ["http_error"] + ["dependency_failed"] * 2
    first, middle, last = (api.requests_to(path)[0].at for path in ("/first", "/middle", "/last"))
    assert first < middle < last
    assert not api.requests_to("/never")
    halted = await send_batch(
        shared.server, [api.item("/bad"), api.item("/x"), api.item("/y")], strategy="sequential", on_failure="halt"
    )
    assert outcome_kinds(halted)[1:] == [("rejected", "halted", False)] * 2


async def test_a_halt_cancels_what_runs_and_refuses_what_waits(shared: SharedService) -> None:
    api = shared.upstream_named("halting")
    api.script("/silent", never_respond())
    api.script_response("/bad", status=404, delay_s=0.2)
    asked = [api.item("/silent"), api.item("/silent"), api.item("/bad"), api.item("/x"), api.item("/x")]
    outcomes = await send_batch(shared.server, asked, strategy="bounded", max_concurrency=3, on_failure="halt")
    assert outcome_kinds(outcomes) == [
        ("cancelled", "cancelled", True),
        ("cancelled", "cancelled", True),
        ("http_error", "http_status", True),
        ("rejected", "halted", False),
        ("rejected", "halted", False),
    ]
    await shared.upstream.wait_until(lambda it: it.in_progress == 0)


async def test_every_strategy_keeps_a_declared_limit_and_its_own(shared: SharedService) -> None:
    in_hand: Counter[str] = Counter()
    most: Counter[str] = Counter()

    async def counting(request: ReceivedRequest, peer: Peer) -> None:
        name = request.path.split("/")[1]
        in_hand[name] += 1
        most[name] = max(most[name], in_hand[name])
        await asyncio.sleep(0.01)
        in_hand[name] -= 1
        peer.write(response_head(200, {"content-length": "0"}))

    async def run(strategy: str) -> list[dict[str, Any]]:
        api = shared.upstream_named(f"strict-{strategy.replace('_', '-')}")
        for n in range(50):
            api.script(f"/{n}", counting)
        own: dict[str, Any] = {"max_concurrency": 4} if strategy in ("bounded", "token_bucket", "adaptive") else {}
        if strategy == "token_bucket":
            own["rate"] = {"limit": 100, "per": "1s"}
        return await send_batch(shared.server, [api.item(f"/{n}") for n in range(50)], strategy=strategy, **own)

    for strategy, outcomes in zip(STRATEGIES, await asyncio.gather(*map(run, STRATEGIES)), strict=True):
        name = f"strict-{strategy.replace('_', '-')}"
        assert {outcome["outcome"] for outcome in outcomes} == {"success"}, strategy
        assert max_within([received.at for received in shared.upstream_named(name).requests], 0.49) <= 20, strategy
        assert most[name] <= {"sequential": 1, "concurrent": 10}.get(strategy, 4), strategy


async def test_a_batch_s_own_rate_is_kept_besides(shared: SharedService) -> None:
    rate, beat = shared.upstream_named("own-rate"), shared.upstream_named("own-beat")
    await asyncio.gather(
        send_batch(shared.server, [rate.item(f"/{n}") for n in range(12)], rate={"limit": 5, "per": "400ms"}),
        send_batch(
            shared.server,
            [beat.item(f"/{n}") for n in range(12)],
            strategy="token_bucket",
            rate={"limit": 20, "per": "1s", "burst": 1},
        ),
    )
    assert max_within([received.at for received in rate.requests], 0.38) <= 5
    beats = [received.at for received in beat.requests]
    assert max_within(beats, 0.24) <= 6
    assert max(beats) - min(beats) >= 0.5  # eleven beats of 50 ms


async def test_a_cost_takes_as_much_of_each_window_as_it_says(shared: SharedService) -> None:
    api = shared.upstream_named("priced")
    outcomes = await send_batch(shared.server, [api.item(f"/{n}", cost=3) for n in range(6)])
    assert {outcome["outcome"] for outcome in outcomes} == {"success"}
    assert max_within([received.at for received in api.requests], 0.49) <= 2
    _, state = await shared.server.get("/v1/upstreams/priced")
    tokens = next(window for window in state["budgets"][0]["windows"] if window["unit"] == "tokens")
    before = tokens["remaining"]
    await send_batch(shared.server, [api.item("/t", cost={"requests": 1, "tokens": 60})])
    _, state = await shared.server.get("/v1/upstreams/priced")
    tokens = next(window for window in state["budgets"][0]["windows"] if window["unit"] == "tokens")
    assert tokens["remaining"] <= before - 59
    assert any(outcome["timing"]["limited_by"] == "rate" for outcome in outcomes)


async def test_the_deadline_ends_what_is_left_and_nothing_is_lost(shared: SharedService) -> None:
    api = shared.upstream_named("scarce")
    api.script_response("/slow", delay_s=30)
    asked = [api.item("/slow"), api.item("/quick"), *(api.item("/queued") for _ in range(5))]
    outcomes = await send_batch(shared.server, asked, deadline="700ms")
    assert outcome_kinds(outcomes)[:2] == [("deadline_exceeded", "deadline_exceeded", True), ("success", None, None)]
    assert {code for _, code, _ in outcome_kinds(outcomes)[2:]} <= {"deadline_unreachable", "deadline_exceeded"}
    assert all(outcome["timing"]["total_ms"] <= 15_000 for outcome in outcomes)  # the slow one would take 30 s
    assert not any(outcome["error"]["sent"] for outcome in outcomes[2:])


async def test_a_whole_answer_has_room_for_so_much_and_a_stream_for_all(shared: SharedService) -> None:
    api = shared.upstream_named("plain")
    api.script_response("/big", body="x" * 1_000_000, headers={"content-type": "text/plain"}, delay_s=0.02)
    asked = [api.item("/big") for _ in range(6)]
    status, answer = await shared.server.post("/v1/batch", {"requests": asked})
    assert status == 200
    left_out = [outcome for outcome in answer["responses"] if outcome["outcome"] != "success"]
    assert 3 <= len(left_out) <= 4
    assert {outcome["error"]["code"] for outcome in left_out} == {"batch_response_too_large"}
    assert {(outcome["outcome"], outcome["status"], outcome["body"]) for outcome in left_out} == {
        ("too_large", 200, None)
    }
    assert answer["summary"]["succeeded"] == 6 - len(left_out)
    assert answer["summary"]["failed"] == len(left_out)
    async with shared.server.http.post(
        "/v1/batch", json={"requests": asked, "strategy": "sequential"}, headers={"accept": "application/x-ndjson"}
    ) as streamed:
        lines = [json.loads(line) for line in (await streamed.text()).splitlines()]
    assert [line["body"] for line in lines[:-1]] == ["x" * 1_000_000] * 6


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
async def test_a_stream_holds_the_same_outcomes_as_they_complete(shared: SharedService, accept: str) -> None:
    api = shared.upstream_named("plain")
    api.script_response("/late", delay_s=0.3, json={"a": 1})
    api.script_response("/pretty", body='{"pretty":\n 1}', headers={"content-type": "application/json"})
    asked = [api.item("/late", id="slow"), api.item("/pretty", id="quick"), {"url": "http://10.0.0.1/", "id": "no"}]
    async with shared.server.http.post(
        "/v1/batch", json={"requests": asked}, headers={"accept": accept, "prefer": "respond-async"}
    ) as answer:
        assert answer.status == 200
        assert answer.content_type == accept
        text = await answer.text()
    if accept == "text/event-stream":
        events = [dict(line.split(": ", 1) for line in event.splitlines()) for event in text.strip().split("\n\n")]
        assert [event["event"] for event in events] == ["item", "item", "item", "summary"]
        seen = [json.loads(event["data"]) for event in events]
    else:
        seen = [json.loads(line) for line in text.splitlines()]
    assert seen[2]["id"] == "slow"
    assert {each["id"] for each in seen[:2]} == {"quick", "no"}
    check_outcomes(asked, sorted(seen[:-1], key=lambda outcome: outcome["index"]), seen[-1]["summary"])
    assert next(each for each in seen if each.get("id") == "quick")["body"] == {"pretty": 1}


async def test_one_fetch_is_the_outcome_of_a_batch_of_one(shared: SharedService) -> None:
    api = shared.upstream_named("plain")
    api.script_response("/one", status=404, json={"why": "gone"}, headers={"x-a": "1"})
    status, fetched = await shared.server.post(
        "/v1/fetch", {**api.item("/one", id="a"), "deadline": "5s", "priority": "bulk"}
    )
    (batched,) = await send_batch(shared.server, [api.item("/one", id="a")])
    assert status == 200
    for outcome in (fetched, batched):
        assert outcome.pop("timing")["limited_by"]
    assert fetched == batched
    status, problem = await shared.server.post("/v1/fetch", {**api.item("/one"), "depends_on": ["a"]})
    assert (status, problem["field"]) == (422, "depends_on")
