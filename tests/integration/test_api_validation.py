"""Every mistake about a batch as a whole is 422 and names its field; one bad item is not such a mistake."""

from __future__ import annotations

from typing import Any

from support.in_process_api import one_upstream_config, start_api
from tools.scripted_upstream import ScriptedUpstream

X: dict[str, Any] = {"upstream": "api", "path": "/x"}


def one(**item: Any) -> dict[str, Any]:
    return {"requests": [X, {**X, **item}]}


def whole(**body: Any) -> dict[str, Any]:
    return {"requests": [X], **body}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "requests"),
    ({"requests": []}, "requests"),
    ({"requests": {}}, "requests"),
    ({"requests": [1]}, "requests[0]"),
    (whole(strategie="adaptive"), "strategie"),
    (one(timeuot="5s"), "requests[1].timeuot"),
    (one(retry={"tries": 1}), "requests[1].retry.tries"),
    (whole(rate={"limit": 1, "per": "1s", "every": 1}), "rate.every"),
    (whole(defaults={"path": "/x"}), "defaults.path"),
    (one(method=1), "requests[1].method"),
    (one(headers={"a": 1}), "requests[1].headers.a"),
    (one(headers={"a": "b", "c": ["b", None]}), "requests[1].headers.c[1]"),
    (one(headers=["a"]), "requests[1].headers"),
    (one(params={"a": "b", "b": True}), "requests[1].params.b"),
    (one(depends_on="0"), "requests[1].depends_on"),
    (one(idempotent="yes"), "requests[1].idempotent"),
    (one(expect="xml"), "requests[1].expect"),
    ({"requests": [{**X, "id": "a"}, {**X, "id": "a"}]}, "requests[1].id"),
    ({"requests": [{**X, "id": "1"}, X]}, "requests[0].id"),
    ({"requests": [X, {**X, "id": "0"}]}, "requests[1].id"),
    (one(depends_on=["0"], dependsOn=["0"]), "requests[1].dependsOn"),
    (one(depends_on=["nobody"]), "requests[1].depends_on"),
    (one(dependsOn=["nobody"]), "requests[1].depends_on"),
    ({"requests": [{**X, "depends_on": ["1"]}, {**X, "depends_on": ["0"]}]}, "requests"),
    (one(depends_on=["1"]), "requests"),
    (one(json={}, body="x"), "requests[1].body"),
    (one(json=None, body_base64="eA=="), "requests[1].body_base64"),
    (one(body="", body_base64=""), "requests[1].body_base64"),
    (one(timeout=-1), "requests[1].timeout"),
    (one(timeout=0), "requests[1].timeout"),
    (one(timeout="0s"), "requests[1].timeout"),
    (one(timeout="NaN"), "requests[1].timeout"),
    (one(timeout="5"), "requests[1].timeout"),
    (one(timeout="-5s"), "requests[1].timeout"),
    (one(timeout=1e300), "requests[1].timeout"),
    (one(timeout=True), "requests[1].timeout"),
    (one(timeout=None), "requests[1].timeout"),
    (one(retry={"attempts": 0}), "requests[1].retry.attempts"),
    (one(retry={"attempts": 1.5}), "requests[1].retry.attempts"),
    (one(retry={"attempts": 10**30}), "requests[1].retry.attempts"),
    (one(retry={"throttles": -1}), "requests[1].retry.throttles"),
    (one(cost=0), "requests[1].cost"),
    (one(cost=-1), "requests[1].cost"),
    (one(cost="1"), "requests[1].cost"),
    (one(cost=1e300), "requests[1].cost"),
    (one(cost={"tokens": -1}), "requests[1].cost.tokens"),
    (one(cost={"tokens": 1e300}), "requests[1].cost.tokens"),
    (one(cost={f"unit{n}": 1 for n in range(17)}), "requests[1].cost"),
    (one(cost={"requests": 0}), "requests[1].cost.requests"),
    (one(cost={"tokens": "many"}), "requests[1].cost.tokens"),
    (one(cost={"Tokens!": 1}), "requests[1].cost"),
    (whole(strategy="fast"), "strategy"),
    (whole(priority="urgent"), "priority"),
    (whole(on_failure="explode"), "on_failure"),
    (whole(deadline=-1), "deadline"),
    (whole(deadline=0), "deadline"),
    (whole(deadline="soon"), "deadline"),
    (whole(deadline="16m"), "deadline"),
    (whole(retry={"attempts": 0}), "retry.attempts"),
    (whole(retry={"throttles": -1}), "retry.throttles"),
    (whole(max_concurrency=0, strategy="bounded"), "max_concurrency"),
    (whole(max_concurrency=-1), "max_concurrency"),
    (whole(max_concurrency=1.5), "max_concurrency"),
    (whole(max_concurrency=5, strategy="sequential"), "max_concurrency"),
    (whole(max_concurrency=5, strategy="concurrent"), "max_concurrency"),
    (whole(rate={"limit": 5, "per": "1s"}, strategy="sequential"), "rate"),
    (whole(rate={"limit": 5, "per": "1s"}, strategy="concurrent"), "rate"),
    (whole(rate={"limit": 5, "per": "1s"}, strategy="bounded"), "rate"),
    (whole(strategy="token_bucket"), "rate"),
    (whole(rate={"limit": 5}), "rate.per"),
    (whole(rate={"limit": 0, "per": "1s"}), "rate.limit"),
    (whole(rate={"limit": -5, "per": "1s"}), "rate.limit"),
    (whole(rate={"limit": 1e300, "per": "1s"}), "rate.limit"),
    (whole(rate={"limit": 5, "per": 0}), "rate.per"),
    (whole(rate={"limit": 5, "per": 5e-324}), "rate.per"),
    (whole(rate={"limit": 5, "per": "1s", "burst": 6}), "rate.burst"),
    (whole(rate={"limit": 5, "per": "1s", "burst": 0}), "rate.burst"),
    (whole(rate={"limit": 5, "per": "1s", "unit": "a b"}), "rate.unit"),
    (whole(rate={"limit": 5, "per": "1s", "unit": "tokens"}, strategy="token_bucket"), "rate.unit"),
    (whole(defaults={"timeout": -1}), "defaults.timeout"),
    (whole(defaults={"cost": -1}), "defaults.cost"),
    (whole(defaults={"cost": {"tokens": -1}}), "defaults.cost.tokens"),
    (whole(defaults={"expect": "xml"}), "defaults.expect"),
]


async def test_each_mistake_is_422_and_names_its_field(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url)) as api:
        for body, field in REFUSED:
            refused = await api.request("POST", "/v1/batch", body)
            assert refused.status == 422, (body, refused.body)
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.body["field"] == field, (body, refused.body)
            assert refused.body["code"] == "invalid"
            assert refused.body["status"] == 422
    assert upstream.requests == []


STRATEGIES = "sequential, concurrent, bounded, token_bucket, adaptive"
TOLD: list[tuple[str, dict[str, Any], str]] = [
    *(
        (path, body, detail)
        for path in ("/v1/batch", "/v1/plan")
        for body, detail in (
            (whole(strategy="fast"), f"strategy is 'fast'; it must be one of {STRATEGIES}"),
            (whole(strategy=1), f"strategy must be one of {STRATEGIES}, not a number; correct it"),
            (whole(priority="urgent"), "priority is 'urgent'; it must be one of interactive, normal, bulk"),
            (whole(on_failure="explode"), "on_failure is 'explode'; it must be one of continue, halt"),
            (one(expect="xml"), "requests[1].expect is 'xml'; it must be one of auto, text, base64, none"),
            (whole(defaults={"expect": 1}), "defaults.expect must be one of auto, text, base64, none, not a number"),
        )
    ),
    ("/v1/fetch", {**X, "priority": "urgent"}, "priority is 'urgent'; it must be one of interactive, normal, bulk"),
    ("/v1/fetch", {**X, "expect": "xml"}, "expect is 'xml'; it must be one of auto, text, base64, none"),
    (
        "/v1/compare",
        {"request": X, "strategies": ["bounded", "fast"]},
        f"strategies[1] is 'fast'; it must be one of {STRATEGIES}",
    ),
    ("/v1/compare", {"request": X, "engines": ["curl"]}, "engines[0] is 'curl'; it must be one of aiohttp, httpx"),
    ("/v1/compare", {"request": {**X, "expect": "xml"}}, "request.expect is 'xml'; it must be one of auto, text"),
    ("/v1/batch", {"request": [X]}, "request is not a field here; did you mean requests?"),
    ("/v1/batch", whole(Strategy="fast"), "Strategy is not a field here; did you mean strategy?"),
    (
        "/v1/batch",
        whole(retry={"loops": 1}),
        "retry.loops is not a field here; the fields here are attempts, throttles",
    ),
    ("/v1/batch", whole(strategy="x" * 1_000), f"strategy is '{'x' * 199}...; it must be one of"),
    ("/v1/batch", whole(max_concurrency="5"), "max_concurrency must be a whole number, not text; correct it"),
    ("/v1/batch", whole(max_concurrency=1.5), "max_concurrency must be a whole number, not a fraction; correct it"),
    ("/v1/batch", whole(deadline=[]), 'deadline must be a time such as "30s", or a number of seconds, not a list'),
    ("/v1/batch", whole(deadline=-1), "deadline is negative; give it more than zero seconds"),
    ("/v1/batch", one(idempotent=1), "requests[1].idempotent must be true or false, not a number; correct it"),
    ("/v1/batch", one(params={"a": "b", "c.d": {}}), "requests[1].params.c.d must be text or a list, not an object"),
    ("/v1/batch", one(depends_on=["x"]), "requests[1].depends_on names 'x', which is no id of this batch; correct it"),
]


async def test_a_refusal_says_what_stands_there_and_what_may(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url)) as api:
        for path, body, detail in TOLD:
            refused = await api.request("POST", path, body)
            assert refused.status == 422, (body, refused.body)
            assert refused.body["detail"].startswith(detail), refused.body
            assert refused.body["detail"].startswith(refused.body["field"]), refused.body


async def test_a_large_batch_is_refused_in_the_same_words(upstream: ScriptedUpstream):
    """It is read part by part."""
    large = {**X, "method": "POST", "body": "x" * 300_000}
    async with start_api(one_upstream_config(upstream.url)) as api:
        for body, detail in (
            ({"requests": [large], "strategy": "fast"}, f"strategy is 'fast'; it must be one of {STRATEGIES}"),
            (
                {"requests": [large], "defaults": {"params": {"a": 1}}},
                "defaults.params.a must be text or a list, not a num",
            ),
            ({"requests": [large, {**X, "expect": "xml"}]}, "requests[1].expect is 'xml'; it must be one of auto"),
            (
                {"requests": [large, {**X, "headers": {"a": ["b", 1]}}]},
                "requests[1].headers.a[1] must be text, not a num",
            ),
            (
                {"requests": [large, {**X, "retries": 1}]},
                "requests[1].retries is not a field here; did you mean retry?",
            ),
            (
                {"requests": [large, {**large, "headers": {"a": 1}}]},
                "requests[1].headers must be text or a list, not a num",
            ),
        ):
            refused = await api.request("POST", "/v1/batch", body)
            assert (refused.status, refused.body["detail"].startswith(detail)) == (422, True), refused.body


async def test_a_mistake_before_another_one_is_told(upstream: ScriptedUpstream):
    """What stands behind it may be no JSON at all, or take the place of what was read."""
    async with start_api(one_upstream_config(upstream.url)) as api:
        for rest in (b"]}", b"", b', "requests": 5}', b', "x": ' + b"[" * 5_000):
            body = b'{"requests": [{"upstream": "api", "headers": {"a": 1}}]%b' % rest
            refused = await api.request("POST", "/v1/batch", body)
            assert refused.status == 422, refused.body
            assert refused.body["field"].startswith("requests[0].headers")


async def test_a_body_that_is_no_object_is_422_without_a_field():
    async with start_api({}) as api:
        refused = await api.request("POST", "/v1/batch", b"[]")
    assert refused.status == 422
    assert "field" not in refused.body


REJECTED: list[tuple[dict[str, Any], str]] = [
    ({}, "invalid_request"),
    ({"url": "not a url"}, "invalid_request"),
    ({"url": "ftp://example.com/"}, "invalid_request"),
    ({"url": "http://example.com/", "upstream": "api"}, "invalid_request"),
    ({**X, "method": "B A D"}, "invalid_request"),
    ({**X, "method": "CONNECT"}, "invalid_request"),
    ({**X, "headers": {"bad name": "x"}}, "invalid_request"),
    ({**X, "headers": {"x": "a\nb"}}, "invalid_request"),
    ({**X, "body_base64": "%%%"}, "invalid_request"),
    ({**X, "cost": 11}, "invalid_request"),
    ({"upstream": "nobody", "path": "/"}, "unknown_upstream"),
    ({"url": "http://127.0.0.1:1/"}, "egress_denied"),
    ({"url": "http://169.254.169.254/latest"}, "egress_denied"),
]


async def test_an_unusable_item_is_rejected_and_the_others_run(upstream: ScriptedUpstream):
    config = one_upstream_config(upstream.url, rate=[{"limit": 10, "per": "100ms"}])
    async with start_api(config) as api:
        answer = await api.send_batch(X, *(item for item, _ in REJECTED), X)
    first, *bad, last = answer["responses"]
    assert (first["outcome"], last["outcome"]) == ("success", "success")
    for (item, code), outcome in zip(REJECTED, bad, strict=True):
        assert (outcome["outcome"], outcome["error"]["code"]) == ("rejected", code), (item, outcome)
        assert outcome["error"]["sent"] is False
    assert len(upstream.requests) == 2


async def test_an_unknown_path_is_404_and_a_wrong_method_405_with_allow():
    async with start_api({}) as api:
        unknown = await api.request("GET", "/v1/nothing")
        wrong = await api.request("GET", "/v1/batch")
        several = await api.request("DELETE", "/v1/upstreams/x")
        slash = await api.request("POST", "/v1/batch/", {"requests": [X]})
    assert (unknown.status, unknown.body["code"]) == (404, "not_found")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    assert (several.status, several.headers["allow"]) == (405, "GET, HEAD, PATCH")
    assert slash.status == 404
    for answer in (unknown, wrong, several, slash):
        assert answer.headers["content-type"] == "application/problem+json"


async def test_whatever_answers_get_answers_head_the_same_without_a_body(upstream: ScriptedUpstream):
    async with start_api(one_upstream_config(upstream.url)) as api:
        paths = ["/healthz", "/readyz", "/metrics", "/v1/strategies", "/v1/upstreams/api", "/docs", "/openapi.json"]
        for path in (*paths, "/v1/upstreams/nobody", "/v1/nothing"):
            whole = await api.request("GET", path)
            head = await api.request("HEAD", path, connection="keep-alive")
            assert (head.status, head.headers["content-type"]) == (whole.status, whole.headers["content-type"]), path
            assert not head.body, path
            assert int(head.headers["content-length"]) > 0
        api.load_shedder.mark_unready()
        assert (await api.request("HEAD", "/readyz")).status == 503
        assert (await api.request("HEAD", "/v1/batch")).status == 405


async def test_a_fault_of_the_service_is_500_and_tells_the_caller_nothing(
    upstream: ScriptedUpstream, caplog, monkeypatch
):
    async with start_api(one_upstream_config(upstream.url)) as api:

        def broken(*_: object) -> None:
            raise ZeroDivisionError("a secret detail")

        monkeypatch.setattr(api.service.runner, "open_run", broken)
        answer = await api.request("POST", "/v1/batch", {"requests": [X]})
    assert (answer.status, answer.body["code"]) == (500, "internal")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in str(answer.body)
    assert "Traceback" not in str(answer.body)
