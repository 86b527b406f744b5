"""One item becomes one request: merging, bodies, headers, credentials, limits, and refusals that say why."""

from __future__ import annotations

import re
from typing import Any

import pytest
from msgspec import Raw

from paceline.batch.request_builder import RequestBuilder
from paceline.errors import EgressDenied, ForbiddenUpstream, InvalidRequest, Rejected, UnknownUpstream
from paceline.model import Batch, Defaults, Item, ItemRetry, Request, Tenant
from support.in_memory_upstream import InMemoryUpstream, in_memory_service

API = {"base_url": "https://api.example/v1"}


def prepared(item: Item, *, policy: dict[str, Any] | None = None, config: Any = None, **batch: Any) -> Request:
    upstreams = {"api": {**API, **(policy or {})}, "mate": {"base_url": "https://mate.example"}}
    with in_memory_service(InMemoryUpstream(), upstreams=upstreams, config=config) as service:
        return RequestBuilder(service.registry, Batch([item], **batch), 5.0).build(item)[1]


def api(**fields: Any) -> Item:
    return Item(upstream="api", path="/x", **fields)


def headers(request: Request, name: str) -> list[str]:
    return [value for key, value in request.headers if key == name]


def test_the_least_item_is_a_get_of_its_url():
    request = prepared(Item(url="https://api.example/v1/x?q=1#part"))
    assert (request.method, str(request.url), request.headers, request.body) == (
        "GET",
        "https://api.example/v1/x?q=1",
        (),
        b"",
    )
    assert request.deadline == 5.0


@pytest.mark.parametrize(
    "item",
    [
        Item(),
        Item(path="/x"),
        Item(url="https://api.example/v1/x", upstream="api"),
        Item(url="https://api.example/v1/x", path="/x"),
        api(method="CONNECT"),
        api(method="connect"),
        api(method="GET "),
        api(method=""),
        api(method="GÉT"),
        api(headers={"a b": "1"}),
        api(headers={"": "1"}),
        api(headers={"a": "1\r\nb: 2"}),
        api(headers={"a": ["ok", "\x00"]}),
        api(body_base64="not base64!"),
        api(body_base64="YQ"),
        Item(url="nonsense"),
        Item(url="ftp://api.example/x"),
        Item(url="https://user:word@api.example/x"),
    ],
)
def test_an_unusable_item_is_refused(item: Item):
    with pytest.raises(InvalidRequest) as caught:
        prepared(item)
    assert len(caught.value.message) > 20
    assert "word" not in caught.value.message.replace("password", "")


def test_an_unknown_upstream_is_refused_with_those_there_are():
    with pytest.raises(UnknownUpstream, match=r"'nobody'.*api, mate"):
        prepared(Item(upstream="nobody", path="/"))


def test_methods_are_sent_in_capitals():
    assert prepared(api(method="patch")).method == "PATCH"
    assert prepared(api(method="PROPFIND")).method == "PROPFIND"


def test_defaults_are_merged_under_each_item():
    defaults = Defaults(
        upstream="api",
        method="PUT",
        headers={"Accept": "text/plain", "X-A": ["1", "2"]},
        params={"a": "1", "b": "2"},
        timeout="7s",
        cost=3,
    )
    bare = prepared(Item(path="/x"), defaults=defaults)
    assert (bare.method, bare.url.target, bare.timeout_s, bare.cost) == ("PUT", "/v1/x?a=1&b=2", 7.0, {"requests": 3})
    assert bare.headers == (("accept", "text/plain"), ("x-a", "1"), ("x-a", "2"))
    item = Item(
        upstream="mate", path="/x", method="GET", headers={"x-a": "9"}, params={"b": "9", "c": "3"}, timeout=1, cost=1
    )
    own = prepared(item, defaults=defaults)
    assert (own.method, own.url.host, own.url.target) == ("GET", "mate.example", "/x?a=1&b=9&c=3")
    assert own.headers == (("accept", "text/plain"), ("x-a", "9"))
    assert (own.timeout_s, own.cost) == (1.0, {"requests": 1.0})


@pytest.mark.parametrize(
    ("cost", "counted"),
    [
        (0.001, {"requests": 1.0}),
        ({"requests": 0.5, "tokens": 9.0}, {"requests": 1.0, "tokens": 9.0}),
        ({"tokens": 0.5}, {"requests": 1.0, "tokens": 0.5}),
        (2.5, {"requests": 2.5}),
    ],
)
def test_an_item_counts_as_one_request_at_least(cost: float | dict[str, float], counted: dict[str, float]):
    """A thousandth of a request would be sent a thousand times as often as the operator allows."""
    assert prepared(api(cost=cost)).cost == counted


def test_an_items_url_wins_over_the_default_upstream():
    request = prepared(Item(url="https://mate.example/x"), defaults=Defaults(upstream="api"))
    assert request.url.host == "mate.example"


def test_params_are_appended_to_the_query_and_encoded():
    assert prepared(Item(upstream="api", path="/x?q=1", params={"a": ["1", "2"]})).url.target == "/v1/x?q=1&a=1&a=2"
    request = prepared(api(params={"a b": "c&d=e/é+#"}))
    assert request.url.target == "/v1/x?a%20b=c%26d%3De%2F%C3%A9%2B%23"
    assert prepared(api(params={"a": []})).url.target == "/v1/x"


def test_a_default_header_that_cannot_be_sent_rejects_items_and_not_the_batch():
    with in_memory_service(InMemoryUpstream(), upstreams={"api": API}) as service:
        preparation = RequestBuilder(service.registry, Batch([api()], defaults=Defaults(headers={"a b": "1"})), 5.0)
        with pytest.raises(InvalidRequest, match="a b"):
            preparation.build(api())


@pytest.mark.parametrize(
    ("item", "body", "content_type"),
    [
        (api(), b"", []),
        (api(json=Raw(b'{"a": 1}')), b'{"a": 1}', ["application/json"]),
        (api(json=Raw(b"null")), b"null", ["application/json"]),
        (api(json=Raw(b"12345678901234567890123")), b"12345678901234567890123", ["application/json"]),
        (api(body="hé"), "hé".encode(), ["text/plain; charset=utf-8"]),
        (api(body=""), b"", ["text/plain; charset=utf-8"]),
        (api(body_base64="AP8="), b"\x00\xff", []),
        (api(json=Raw(b"1"), headers={"Content-Type": "application/x+json"}), b"1", ["application/x+json"]),
        (api(body="x", headers={"content-type": "text/csv"}), b"x", ["text/csv"]),
    ],
)
def test_each_form_of_body(item: Item, body: bytes, content_type: list[str]):
    request = prepared(item)
    assert request.body == body
    assert headers(request, "content-type") == content_type


def test_a_default_content_type_is_kept_with_a_body():
    request = prepared(api(body="x"), defaults=Defaults(headers={"content-type": "text/csv"}))
    assert headers(request, "content-type") == ["text/csv"]


SECRET = {"auth": {"bearer": "s3cret"}}


@pytest.mark.parametrize(
    "batch",
    [
        {},
        {"defaults": Defaults(headers={"AUTHORIZATION": "Bearer mine"})},
        {"config": {"defaults": {"headers": {"authorization": "Bearer file"}}}},
    ],
)
@pytest.mark.parametrize("own", [{}, {"headers": {"Authorization": "Bearer mine", "x": "1"}}, {"body": "x"}])
def test_an_upstreams_credential_replaces_every_other(batch: dict[str, Any], own: dict[str, Any]):
    assert headers(prepared(api(**own), policy=SECRET, **batch), "authorization") == ["Bearer s3cret"]


def test_the_credential_goes_to_its_own_upstream_only():
    assert headers(prepared(Item(url="https://api.example/v1/x"), policy=SECRET), "authorization") == ["Bearer s3cret"]
    for url in (
        "https://mate.example/x",
        "https://api.example/v2",
        "https://api.example/v1x",
        "http://api.example/v1/x",
    ):
        assert headers(prepared(Item(url=url), policy=SECRET), "authorization") == []


def test_a_credential_in_a_header_of_its_own_leaves_authorization_to_the_caller():
    policy = {"auth": {"header": {"name": "X-Token", "value": "t"}}}
    request = prepared(api(headers={"x-token": "mine", "authorization": "mine"}), policy=policy)
    assert (headers(request, "x-token"), headers(request, "authorization")) == (["t"], ["mine"])


def test_configured_headers_are_sent_unless_the_item_gives_its_own():
    policy = {"headers": {"accept": "a/b", "x-team": "us"}}
    request = prepared(api(headers={"Accept": ["c/d", "e/f"]}), policy=policy)
    assert request.headers == (("x-team", "us"), ("accept", "c/d"), ("accept", "e/f"))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"])
def test_safe_methods_are_repeatable(method: str):
    assert prepared(api(method=method)).repeatable is True


def test_others_are_repeatable_only_where_somebody_says_so():
    assert prepared(api(method="POST")).repeatable is False
    assert prepared(api(method="PATCH")).repeatable is False
    assert prepared(api(method="POST", idempotent=True)).repeatable is True
    assert prepared(api(method="POST"), defaults=Defaults(idempotent=True)).repeatable is True
    assert prepared(api(method="POST", headers={"Idempotency-Key": "k"})).repeatable is True


KEYED = {"idempotency_header": "X-Idempotency"}


def test_an_upstream_that_takes_idempotency_keys_gets_one_for_each_item_that_needs_it():
    first, second = (prepared(api(method="POST"), policy=KEYED) for _ in range(2))
    keys = [headers(request, "x-idempotency") for request in (first, second)]
    assert all(re.fullmatch("[0-9a-f]{32}", key) for (key,) in keys)
    assert keys[0] != keys[1]
    assert first.repeatable
    assert headers(prepared(api(method="PUT"), policy=KEYED), "x-idempotency") == []


def test_the_callers_own_key_is_kept_and_one_that_says_idempotent_gets_a_key_too():
    own = prepared(api(method="POST", headers={"x-idempotency": "mine"}), policy=KEYED)
    assert (headers(own, "x-idempotency"), own.repeatable) == (["mine"], True)
    assert len(headers(prepared(api(method="POST", idempotent=True), policy=KEYED), "x-idempotency")) == 1


@pytest.mark.parametrize(
    ("cost", "paid"),
    [
        (1, {"requests": 1.0}),
        (2.5, {"requests": 2.5}),
        ({"tokens": 1200}, {"requests": 1.0, "tokens": 1200}),
        ({"requests": 3, "tokens": 0}, {"requests": 3, "tokens": 0}),
    ],
)
def test_a_cost_is_a_number_of_requests_or_a_map(cost: Any, paid: dict[str, float]):
    assert dict(prepared(api(cost=cost)).cost) == paid


def test_an_items_timeout_raises_its_attempts_and_never_lowers_it():
    policy = {"timeout": {"attempt": "10s", "item": "30s"}}
    for given, expected in ((None, (30.0, 10.0)), ("60s", (60.0, 60.0)), ("5s", (5.0, 10.0)), (12, (12.0, 12.0))):
        request = prepared(api() if given is None else api(timeout=given), policy=policy)
        assert (request.timeout_s, request.attempt_timeout_s) == expected


def test_an_items_retries_win_over_the_batchs_and_those_over_the_upstreams():
    policy = {"retry": {"attempts": 5, "throttles": 7, "statuses": [418]}}
    assert (prepared(api(), policy=policy).retry.attempts, prepared(api(), policy=policy).retry.throttles) == (5, 7)
    batch = prepared(api(), policy=policy, retry=ItemRetry(attempts=4))
    assert (batch.retry.attempts, batch.retry.throttles) == (4, 7)
    both = prepared(api(retry=ItemRetry(attempts=1)), policy=policy, retry=ItemRetry(attempts=4, throttles=2))
    assert (both.retry.attempts, both.retry.throttles) == (1, 2)
    assert {418, 503} <= both.retry.statuses


def test_a_key_reaches_its_own_upstreams_only():
    tenant = Tenant("team", upstreams=frozenset({"api"}))
    assert prepared(api(), tenant=tenant).url.host == "api.example"
    for item in (
        Item(upstream="mate", path="/"),
        Item(url="https://mate.example/"),
        Item(url="https://undeclared.example/"),
        Item(url="http://127.0.0.1:1/"),
    ):
        with pytest.raises(ForbiddenUpstream):
            prepared(item, tenant=tenant)


def test_a_key_that_may_not_reach_undeclared_hosts_takes_up_no_place_among_them():
    tenant = Tenant("team", upstreams=frozenset({"api"}))
    with in_memory_service(InMemoryUpstream(), upstreams={"api": API}) as service:
        item = Item(url="https://undeclared.example/")
        with pytest.raises(ForbiddenUpstream):
            RequestBuilder(service.registry, Batch([item], tenant=tenant), 5.0).build(item)
        assert service.registry.undeclared == []


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://169.254.169.254/latest", "https://x.example:22/"])
def test_an_address_that_is_refused_rejects_the_item(url: str):
    with pytest.raises(EgressDenied):
        prepared(Item(url=url))


def test_declared_egress_lets_only_declared_upstreams_through():
    declared = {"egress": {"mode": "declared"}}
    assert prepared(Item(url="https://mate.example/x"), config=declared).url.host == "mate.example"
    with pytest.raises(Rejected, match="no declared upstream"):
        prepared(Item(url="https://undeclared.example/x"), config=declared)


def test_what_items_share_is_worked_out_once():
    with in_memory_service(InMemoryUpstream(), upstreams={"api": {**API, "headers": {"a": "1"}}}) as service:
        preparation = RequestBuilder(service.registry, Batch([]), 5.0)
        first, second = (preparation.build(api())[1] for _ in range(2))
    assert first.headers is second.headers
    assert first.retry is second.retry
    assert first.receipt is not second.receipt
