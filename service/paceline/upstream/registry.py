"""The upstreams, declared and undeclared, found by name or URL, and the engines that reach them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from math import inf
from weakref import WeakSet

from paceline.admission.permit_pool import PermitPool
from paceline.config import Config, PolicyConfig, UpstreamConfig
from paceline.errors import ConfigError, ForbiddenUpstream, InvalidRequest, Overloaded, UnknownUpstream
from paceline.events import EventListener
from paceline.model import EngineName, Url
from paceline.transport.base import Transport, TransportOptions
from paceline.transport.egress import EgressGuard
from paceline.transport.engines import open_engine
from paceline.transport.url import parse_url, remove_dot_segments
from paceline.upstream.upstream import Upstream

UNDECLARED_UPSTREAM_NAME = "other"
"""The name and metric label of every undeclared host."""

_MAX_UNDECLARED_HOSTS = 1000
_EVICTION_RETRY_S = 1.0
"""Seconds. After a search that found no idle host, requests are rejected without another search for this long."""


class UpstreamRegistry:
    """Finds the upstream of a URL or a name, and owns every open engine."""

    def __init__(self, config: Config, guard: EgressGuard, socket_pool: PermitPool, emit: EventListener) -> None:
        self._guard = guard
        self._socket_pool = socket_pool
        self._emit = emit
        self._transports: dict[tuple[EngineName, TransportOptions], Transport] = {}
        self._retired_transports: WeakSet[Transport] = WeakSet()
        """Engines of former configurations: each is freed with its last batch and its last idle connection."""
        self._declared: dict[str, Upstream] = {}
        self._retired_upstreams: dict[str, Upstream] = {}
        """No longer declared, but their windows still hold tokens: declared again, they continue counting."""
        self._by_origin: dict[tuple[str, str, int], list[Upstream]] = {}
        self._undeclared_by_origin: OrderedDict[tuple[str, str, int], Upstream] = OrderedDict()
        self._next_eviction_at = -inf
        self.apply(config, guard)

    def apply(self, config: Config, guard: EgressGuard) -> None:
        """Apply a configuration, the first or a new one. An upstream that both declare keeps its state.

        Engines of the former configuration serve only the batches that hold them.

        Raises:
            ConfigError: it cannot be used; nothing has changed.
        """
        opened = _open_declared_engines(config, guard)
        self._guard = guard
        self._retired_transports.update(self._transports.values())
        self._transports = opened
        previous = {**self._retired_upstreams, **self._declared}
        self._declared = {}
        for name, policy in config.upstreams.items():
            transport_options = _transport_options_of(policy)
            known = previous.pop(name, None)
            if known is not None:
                known.reconfigure(policy, transport_options)
            self._declared[name] = known or self._create_upstream(name, policy, transport_options)
        now = time.perf_counter()
        self._retired_upstreams = {
            name: left for name, left in previous.items() if not left.async_gate.gate.is_idle(now)
        }
        self._undeclared_policy = config.policy_for_undeclared
        self._undeclared_transport_options = _transport_options_of(config.policy_for_undeclared)
        for undeclared in self._undeclared_by_origin.values():
            undeclared.reconfigure(self._undeclared_policy, self._undeclared_transport_options)
        self._by_origin = {}
        for upstream in self._declared.values():
            assert upstream.base_url is not None
            self._by_origin.setdefault(_origin(upstream.base_url), []).append(upstream)
        for sharing in self._by_origin.values():
            sharing.sort(key=lambda upstream: -len(upstream.path_prefix))

    def __iter__(self) -> Iterator[Upstream]:
        """The declared upstreams, in the order of the configuration."""
        return iter(self._declared.values())

    @property
    def undeclared(self) -> list[Upstream]:
        """The undeclared hosts used so far; they share one name."""
        return list(self._undeclared_by_origin.values())

    def get(self, name: str) -> Upstream:
        """A declared upstream.

        Raises:
            UnknownUpstream: there is none of this name.
        """
        upstream = self._declared.get(name)
        if upstream is None:
            known = ", ".join(self._declared) or "none is declared"
            raise UnknownUpstream(f"no upstream is called {name!r}; declared: {known}")
        return upstream

    def resolve_url(self, url_text: str, *, undeclared: bool = True) -> tuple[Upstream, Url]:
        """The upstream of a URL: the declared one with the longest prefix, else (if `undeclared`) the host's own.

        Raises:
            InvalidRequest, EgressDenied: the URL cannot be used, or must not.
            ForbiddenUpstream: the host is undeclared, and those are not for this caller.
            Overloaded: too many undeclared hosts are busy.
        """
        url = parse_url(url_text)
        path, query, rest = url.target.partition("?")
        resolved = remove_dot_segments(path)
        if resolved != path:
            url = Url(url.scheme, url.host, url.port, resolved + query + rest)
        origin = (url.scheme, url.host, url.port)
        for upstream in self._by_origin.get(origin, ()):
            if resolved == upstream.path_prefix or resolved.startswith(upstream.path_prefix + "/"):
                return upstream, url
        if not undeclared:
            raise ForbiddenUpstream("this API key may not reach undeclared hosts; use the upstreams it names")
        return self._get_or_create_undeclared(origin), url

    def resolve_path(self, name: str, path: str) -> tuple[Upstream, Url]:
        """A declared upstream and `path` appended to its base URL, which it cannot leave.

        Raises:
            UnknownUpstream, InvalidRequest: no such upstream, or no usable path.
        """
        upstream = self.get(name)
        base_url = upstream.base_url
        assert base_url is not None
        path = path.partition("#")[0]  # first: `..#` would leave a dot segment when its fragment is dropped later
        if path and not path.startswith(("/", "?")):
            path = "/" + path
        path_part, query_separator, query = path.partition("?")
        full_path = upstream.path_prefix + remove_dot_segments(path_part) if path_part else base_url.target
        return upstream, parse_url(f"{base_url.origin}{full_path}{query_separator}{query}")

    async def close(self) -> None:
        """Stop every timer and close every connection."""
        for upstream in (
            *self._declared.values(),
            *self._retired_upstreams.values(),
            *self._undeclared_by_origin.values(),
        ):
            upstream.async_gate.close()
        for transport in (*self._transports.values(), *self._retired_transports):
            await transport.close()
        self._transports.clear()

    def _get_or_create_undeclared(self, origin: tuple[str, str, int]) -> Upstream:
        known = self._undeclared_by_origin.get(origin)
        self._guard.check_host(origin[1], origin[2], self._undeclared_transport_options)
        if known is not None:
            self._undeclared_by_origin.move_to_end(origin)
            return known
        if len(self._undeclared_by_origin) >= _MAX_UNDECLARED_HOSTS:
            self._evict_idle_host()
        upstream = self._create_upstream(
            UNDECLARED_UPSTREAM_NAME, self._undeclared_policy, self._undeclared_transport_options
        )
        self._undeclared_by_origin[origin] = upstream
        return upstream

    def _evict_idle_host(self) -> None:
        now = time.perf_counter()
        if now >= self._next_eviction_at:
            for _ in range(len(self._undeclared_by_origin)):
                origin, upstream = next(iter(self._undeclared_by_origin.items()))
                if upstream.async_gate.gate.is_idle(now):
                    upstream.async_gate.close()
                    del self._undeclared_by_origin[origin]
                    return
                self._undeclared_by_origin.move_to_end(origin)  # so that the next search starts with another
            self._next_eviction_at = now + _EVICTION_RETRY_S
        raise Overloaded(
            f"{_MAX_UNDECLARED_HOSTS} undeclared hosts are busy; try again later, or declare this one under upstreams"
        )

    def _create_upstream(self, name: str, policy: PolicyConfig, transport_options: TransportOptions) -> Upstream:
        return Upstream(name, policy, transport_options, self._socket_pool, self._emit, self._get_or_open_transport)

    def _get_or_open_transport(self, engine: EngineName, transport_options: TransportOptions) -> Transport:
        """The open engine of these options; opened when first needed."""
        transport = self._transports.get((engine, transport_options))
        if transport is None:
            transport = self._transports[engine, transport_options] = open_engine(
                engine, transport_options, self._guard
            )
        return transport


def _open_declared_engines(config: Config, guard: EgressGuard) -> dict[tuple[EngineName, TransportOptions], Transport]:
    """Open every engine that the declared upstreams need: its library is imported now, not during the first item."""
    opened: dict[tuple[EngineName, TransportOptions], Transport] = {}
    for name, policy in config.upstreams.items():
        key = (policy.engine, _transport_options_of(policy))
        try:
            parse_url(policy.base_url)
            if key not in opened:
                opened[key] = open_engine(*key, guard)
        except (InvalidRequest, OSError) as error:
            raise ConfigError("configuration", f"upstreams.{name}", str(error), "mend what it names") from error
    return opened


def _origin(url: Url) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port


def _transport_options_of(policy: PolicyConfig) -> TransportOptions:
    return TransportOptions(
        allow_private=isinstance(policy, UpstreamConfig) and policy.allow_private,
        declared=isinstance(policy, UpstreamConfig),
        dns_timeout_s=policy.timeout.dns,
        connect_timeout_s=policy.timeout.connect,
        max_response=policy.max_response,
        ca_file=policy.tls.ca_file,
        cert_file=policy.tls.cert_file,
        key_file=policy.tls.key_file,
        proxy=policy.proxy_url(),
    )
