"""Builds the request of an item, or rejects the item and says what is wrong with it."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from urllib.parse import quote, urlencode
from uuid import uuid4

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from paceline.errors import ForbiddenUpstream, InvalidRequest
from paceline.header_values import find_control_character, match_token
from paceline.model import (
    ONE_REQUEST,
    Batch,
    Cost,
    Exchange,
    Headers,
    Item,
    Receipt,
    Request,
    RetryPolicy,
    Url,
)
from paceline.units import parse_duration
from paceline.upstream.registry import UpstreamRegistry
from paceline.upstream.upstream import Upstream

_IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
_JSON_CONTENT_TYPE = ("content-type", "application/json")
_TEXT_CONTENT_TYPE = ("content-type", "text/plain; charset=utf-8")


class RequestBuilder:
    """Builds the requests of one batch; what its items share is worked out once."""

    def __init__(self, registry: UpstreamRegistry, batch: Batch, deadline: float) -> None:
        self._registry = registry
        self._batch = batch
        self._deadline = deadline
        self._defaults = batch.defaults
        self._allowed_upstreams = batch.tenant.upstreams
        self._default_cost = _normalize_cost(batch.defaults.cost)
        self._upstream_defaults: dict[Upstream, tuple[Headers, RetryPolicy]] = {}

    def build(self, item: Item) -> tuple[Upstream, Request]:
        """The upstream and the request of one item.

        Raises:
            Rejected: the item cannot be sent, and why.
        """
        upstream, url = self._resolve_target(item)
        if self._allowed_upstreams is not None and upstream.name not in self._allowed_upstreams:
            raise ForbiddenUpstream(
                f"this API key may not reach the upstream {upstream.name!r}; it reaches: "
                f"{', '.join(sorted(self._allowed_upstreams)) or 'none'}"
            )
        method = self._method(item)
        params = _merge_params(self._defaults.params, item.params)
        if params:
            url = _append_params(url, params)
        body, content_type = _encode_body(item)
        headers, retry = self._upstream_defaults.get(upstream) or self._resolve_upstream_defaults(upstream)
        if item.headers is not UNSET or content_type is not None:
            headers = _merge_headers(headers, _validate_headers(item.headers), upstream.auth_header, content_type)
        key = upstream.policy.idempotency_header
        if key is not None and method not in _IDEMPOTENT_METHODS and not _has_header(headers, key):
            headers = (*headers, (key, uuid4().hex))
        repeatable = (
            method in _IDEMPOTENT_METHODS
            or item.idempotent
            or self._defaults.idempotent
            or key is not None
            or _has_header(headers, "idempotency-key")
        )
        timeout_s, attempt_timeout_s = self._timeouts(item, upstream)
        if item.retry is not UNSET:
            retry = _override_retry_policy(retry, item.retry.attempts, item.retry.throttles)
        return upstream, Request(
            method=method,
            url=url,
            headers=headers,
            body=body,
            deadline=self._deadline,
            receipt=Receipt(),
            exchange=Exchange(),
            retry=retry,
            repeatable=repeatable,
            cost=self._default_cost if item.cost is UNSET else _normalize_cost(item.cost),
            timeout_s=timeout_s,
            attempt_timeout_s=attempt_timeout_s,
        )

    def _resolve_target(self, item: Item) -> tuple[Upstream, Url]:
        if item.url is not UNSET:
            if item.upstream is not UNSET or item.path is not UNSET:
                raise InvalidRequest("an item has either a url, or an upstream and a path; remove one of them")
            return self._registry.resolve_url(item.url, undeclared=self._allowed_upstreams is None)
        name = item.upstream if item.upstream is not UNSET else self._defaults.upstream
        if name is UNSET:
            raise InvalidRequest("an item needs a url, or an upstream and a path; add one of them")
        return self._registry.resolve_path(name, "" if item.path is UNSET else item.path)

    def _method(self, item: Item) -> str:
        method = item.method if item.method is not UNSET else self._defaults.method
        if method is UNSET:
            return "GET"
        if method in _IDEMPOTENT_METHODS:
            return method
        method = method.upper()
        if method == "CONNECT" or not match_token(method):
            raise InvalidRequest(f"the method {method[:40]!r} cannot be sent; use GET, POST, PUT, PATCH, DELETE, HEAD")
        return method

    def _resolve_upstream_defaults(self, upstream: Upstream) -> tuple[Headers, RetryPolicy]:
        headers = _merge_headers(upstream.headers, _validate_headers(self._defaults.headers), None, None)
        if upstream.auth_header is not None:
            headers = (*(pair for pair in headers if pair[0] != upstream.auth_header[0]), upstream.auth_header)
        retry = _override_retry_policy(upstream.retry_policy, self._batch.retry.attempts, self._batch.retry.throttles)
        self._upstream_defaults[upstream] = headers, retry
        return headers, retry

    def _timeouts(self, item: Item, upstream: Upstream) -> tuple[float, float]:
        """The timeouts of the item and of an attempt; one given on the item raises the attempt's to it."""
        policy_timeouts = upstream.policy.timeout
        requested = item.timeout if item.timeout is not UNSET else self._defaults.timeout
        if requested is UNSET:
            return policy_timeouts.item, policy_timeouts.attempt
        seconds = parse_duration(requested)
        return seconds, max(policy_timeouts.attempt, seconds)


def _override_retry_policy(policy: RetryPolicy, attempts: int | UnsetType, throttles: int | UnsetType) -> RetryPolicy:
    if attempts is not UNSET:
        policy = replace(policy, attempts=attempts)
    if throttles is not UNSET:
        policy = replace(policy, throttles=throttles)
    return policy


def _normalize_cost(cost: float | Mapping[str, float] | UnsetType) -> Cost:
    """The units that an item takes of the windows: at least one request, or no window would hold."""
    if cost is UNSET or cost == 1:
        return ONE_REQUEST
    amounts = cost if isinstance(cost, Mapping) else {"requests": cost}
    return {**amounts, "requests": max(1.0, amounts.get("requests", 1.0))}


def _validate_headers(headers: Mapping[str, str | list[str]] | UnsetType) -> Headers:
    """Checked header fields, names in lower case, one pair for each value."""
    if headers is UNSET:
        return ()
    fields: list[tuple[str, str]] = []
    for name, values in headers.items():
        if not match_token(name):
            raise InvalidRequest(f"the header name {name[:40]!r} cannot be sent; use letters, digits and dashes")
        for value in (values,) if isinstance(values, str) else values:
            if find_control_character(value):
                raise InvalidRequest(f"the header {name!r} has a control character in its value; remove it")
            fields.append((name.lower(), value.strip(" \t")))
    return tuple(fields)


def _merge_headers(
    defaults: Headers, overrides: Headers, auth: tuple[str, str] | None, content_type: tuple[str, str] | None
) -> Headers:
    """Replace fields of `defaults` by those of the same name in `overrides`; an upstream's credential replaces both."""
    allowed_overrides = overrides if auth is None else tuple(pair for pair in overrides if pair[0] != auth[0])
    names = {name for name, _ in allowed_overrides}
    headers = (*(pair for pair in defaults if pair[0] not in names), *allowed_overrides)
    if content_type is not None and not _has_header(headers, "content-type"):
        return (*headers, content_type)
    return headers


def _has_header(headers: Headers, name: str) -> bool:
    return any(key == name for key, _ in headers)


def _merge_params(
    defaults: Mapping[str, str | list[str]] | UnsetType, overrides: Mapping[str, str | list[str]] | UnsetType
) -> Mapping[str, str | list[str]]:
    if defaults is UNSET:
        return {} if overrides is UNSET else overrides
    return defaults if overrides is UNSET else {**defaults, **overrides}


def _append_params(url: Url, params: Mapping[str, str | list[str]]) -> Url:
    query = urlencode(params, doseq=True, quote_via=quote, errors="surrogatepass")
    if not query:
        return url
    separator = "&" if "?" in url.target else "?"
    return Url(url.scheme, url.host, url.port, url.target + separator + query)


def _encode_body(item: Item) -> tuple[bytes, tuple[str, str] | None]:
    """The body's bytes, and its content type unless a header gives one."""
    if item.body is not UNSET:
        return item.body.encode("utf-8", "surrogatepass"), _TEXT_CONTENT_TYPE
    if item.body_base64 is not UNSET:
        try:
            return b64decode(item.body_base64, validate=True), None
        except (Base64Error, ValueError):
            raise InvalidRequest("body_base64 is not valid base64; encode it by RFC 4648 section 4") from None
    body = bytes(item.json)
    return (body, _JSON_CONTENT_TYPE) if body else (b"", None)
