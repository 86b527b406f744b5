"""The upstreams, declared and met: what each is configured to be and its live state."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from math import inf
from weakref import WeakSet

from paceline.admission.allowance import Allowance
from paceline.admission.health import Health
from paceline.admission.partition import partition_by
from paceline.admission.shell import Admitter
from paceline.config import Config, Policy
from paceline.config import Upstream as Declared
from paceline.errors import ConfigError, ForbiddenUpstream, InvalidRequest, Overloaded, UnknownUpstream
from paceline.events import BudgetPaused, Listener
from paceline.model import EngineName, Rate, Url
from paceline.resilience.adaptive_limit import AdaptiveLimit
from paceline.resilience.breaker import Breaker, BreakerPolicy
from paceline.resilience.retry_budget import RetryBudget
from paceline.transport.base import Transport, Wire
from paceline.transport.egress import Guard
from paceline.transport.engines import open_engine
from paceline.transport.url import parse_url, resolve_dots

OTHER = "other"
"""The name and metric label of every undeclared host."""

_MOST_UNDECLARED = 1000
_SEARCH_AGAIN_S = 1.0
"""With none to drop, the search among all of them is not made anew for everybody who asks."""


class Upstream:
    """One remote API with one policy, and its gate."""

    def __init__(
        self, name: str, policy: Policy, wire: Wire, sockets: Allowance, tell: Listener, open_transport: OpenTransport
    ) -> None:
        self.name = name
        self._sockets = sockets
        self._open_transport = open_transport
        self.retry_budget = RetryBudget(policy.retry.budget_ratio, policy.retry.budget_per_s)
        self._configure(policy, wire)
        self.admitter = self._admitter(
            policy.rates(), lambda pause_s: tell(BudgetPaused(name, pause_s)), _health(policy)
        )

    def _configure(self, policy: Policy, wire: Wire) -> None:
        self.policy = policy
        self.wire = wire
        self.retry = policy.retry_policy()
        self.base = parse_url(policy.base_url) if isinstance(policy, Declared) else None
        self.path = self.base.target.rstrip("/") if self.base else ""
        auth = policy.auth if isinstance(policy, Declared) else None
        self.auth = auth.as_header() if auth else None
        self.headers = policy.header_pairs()
        self.key_of = partition_by(policy.partition, self.path)

    def reconfigure(self, policy: Policy, wire: Wire) -> None:
        """Take a new configuration; what was counted, learned, queued or is in flight stays."""
        self._configure(policy, wire)
        self.retry_budget.retune(policy.retry.budget_ratio, policy.retry.budget_per_s)
        gate = self.admitter.gate
        gate.limit = _limit(policy)
        gate.set_health(_health(policy), time.perf_counter())
        gate.budgets.set_declared(policy.transit, policy.max_pause)
        self.admitter.retune(policy.rates())

    def transport(self, engine: EngineName | None = None) -> Transport:
        """The open engine, its own unless another is named."""
        return self._open_transport(engine or self.policy.engine, self.wire)

    def unpaced(self) -> Admitter:
        """A gate of the same permits without windows, whose calls feed nothing; for one run of a comparison."""
        return self._admitter((), lambda _: None, None)

    def reset(self) -> None:
        """Back to the configuration, what was learned forgotten."""
        self.admitter.reset(self.policy.rates())
        self.retry_budget.reset()

    def _admitter(self, rates: Sequence[Rate], on_pause: Callable[[float], None], health: Health | None) -> Admitter:
        return Admitter(
            rates,
            limit=_limit(self.policy),
            adaptive_limit=inf if health is None else health.limit,
            transit_s=self.policy.transit,
            max_pause_s=self.policy.max_pause,
            sockets=self._sockets,
            on_pause=on_pause,
            health=health,
        )


OpenTransport = Callable[[EngineName, Wire], Transport]


class Registry:
    """Finds the upstream of a URL or a name, and owns every open engine."""

    def __init__(self, config: Config, guard: Guard, sockets: Allowance, tell: Listener) -> None:
        self._guard = guard
        self._sockets = sockets
        self._tell = tell
        self._transports: dict[tuple[EngineName, Wire], Transport] = {}
        self._retired: WeakSet[Transport] = WeakSet()
        """Engines of old rules: each is gone with the last batch that holds it and the last connection at rest."""
        self._declared: dict[str, Upstream] = {}
        self._former: dict[str, Upstream] = {}
        """No longer declared, but their windows still remember: declared again, they go on counting."""
        self._by_origin: dict[tuple[str, str, int], list[Upstream]] = {}
        self._others: OrderedDict[tuple[str, str, int], Upstream] = OrderedDict()
        self._search_at = -inf
        self.apply(config, guard)

    def apply(self, config: Config, guard: Guard) -> None:
        """Take a configuration, the first or a new one. What both know keeps its state.

        Engines opened by the old rules serve the batches that hold them and nobody else.

        Raises:
            ConfigError: it cannot be used; nothing was changed.
        """
        opened = _open_all(config, guard)
        self._guard = guard
        self._retired.update(self._transports.values())
        self._transports = opened
        before = {**self._former, **self._declared}
        self._declared = {}
        for name, policy in config.upstreams.items():
            wire = _wire(policy)
            known = before.pop(name, None)
            if known is not None:
                known.reconfigure(policy, wire)
            self._declared[name] = known or self._upstream(name, policy, wire)
        now = time.perf_counter()
        self._former = {name: left for name, left in before.items() if not left.admitter.gate.idle(now)}
        self._undeclared_policy = config.policy_for_undeclared
        self._undeclared_wire = _wire(config.policy_for_undeclared)
        for other in self._others.values():
            other.reconfigure(self._undeclared_policy, self._undeclared_wire)
        self._by_origin = {}
        for upstream in self._declared.values():
            assert upstream.base is not None
            self._by_origin.setdefault(_origin(upstream.base), []).append(upstream)
        for sharing in self._by_origin.values():
            sharing.sort(key=lambda upstream: -len(upstream.path))

    def __iter__(self) -> Iterator[Upstream]:
        """The declared upstreams, in the order of the configuration."""
        return iter(self._declared.values())

    @property
    def undeclared(self) -> list[Upstream]:
        """Those met so far; they share one name."""
        return list(self._others.values())

    def named(self, name: str) -> Upstream:
        """A declared upstream.

        Raises:
            UnknownUpstream: there is none of this name.
        """
        upstream = self._declared.get(name)
        if upstream is None:
            known = ", ".join(self._declared) or "none is declared"
            raise UnknownUpstream(f"no upstream is called {name!r}; declared: {known}")
        return upstream

    def at(self, text: str, *, undeclared: bool = True) -> tuple[Upstream, Url]:
        """The upstream of a URL: the declared one with the longest prefix, else (if `undeclared`) the host's own.

        Raises:
            InvalidRequest, EgressDenied: the URL cannot be used, or must not.
            ForbiddenUpstream: the host is undeclared, and those are not for this caller.
            Overloaded: too many undeclared hosts are busy.
        """
        url = parse_url(text)
        path, query, rest = url.target.partition("?")
        resolved = resolve_dots(path)
        if resolved != path:
            url = Url(url.scheme, url.host, url.port, resolved + query + rest)
        origin = (url.scheme, url.host, url.port)
        for upstream in self._by_origin.get(origin, ()):
            if resolved == upstream.path or resolved.startswith(upstream.path + "/"):
                return upstream, url
        if not undeclared:
            raise ForbiddenUpstream("this API key may not reach undeclared hosts; use the upstreams it names")
        return self._undeclared(origin), url

    def within(self, name: str, path: str) -> tuple[Upstream, Url]:
        """A declared upstream and `path` appended to its base URL, which it cannot leave.

        Raises:
            UnknownUpstream, InvalidRequest: no such upstream, or no usable path.
        """
        upstream = self.named(name)
        base = upstream.base
        assert base is not None
        path = path.partition("#")[0]  # first: `..#` would leave a dot segment when its fragment is dropped later
        if path and not path.startswith(("/", "?")):
            path = "/" + path
        only, mark, query = path.partition("?")
        whole = upstream.path + resolve_dots(only) if only else base.target
        return upstream, parse_url(f"{base.origin}{whole}{mark}{query}")

    async def close(self) -> None:
        """Stop every timer and close every connection."""
        for upstream in (*self._declared.values(), *self._former.values(), *self._others.values()):
            upstream.admitter.close()
        for transport in (*self._transports.values(), *self._retired):
            await transport.close()
        self._transports.clear()

    def _undeclared(self, origin: tuple[str, str, int]) -> Upstream:
        known = self._others.get(origin)
        self._guard.admit(origin[1], origin[2], self._undeclared_wire)
        if known is not None:
            self._others.move_to_end(origin)
            return known
        if len(self._others) >= _MOST_UNDECLARED:
            self._drop_one()
        upstream = self._upstream(OTHER, self._undeclared_policy, self._undeclared_wire)
        self._others[origin] = upstream
        return upstream

    def _drop_one(self) -> None:
        now = time.perf_counter()
        if now >= self._search_at:
            for _ in range(len(self._others)):
                origin, upstream = next(iter(self._others.items()))
                if upstream.admitter.gate.idle(now):
                    upstream.admitter.close()
                    del self._others[origin]
                    return
                self._others.move_to_end(origin)  # so that nobody looks at it again before all others
            self._search_at = now + _SEARCH_AGAIN_S
        raise Overloaded(
            f"{_MOST_UNDECLARED} undeclared hosts are busy; try again later, or declare this one under upstreams"
        )

    def _upstream(self, name: str, policy: Policy, wire: Wire) -> Upstream:
        return Upstream(name, policy, wire, self._sockets, self._tell, self._transport)

    def _transport(self, engine: EngineName, wire: Wire) -> Transport:
        """One open engine for each way of reaching anybody; opened when first needed."""
        transport = self._transports.get((engine, wire))
        if transport is None:
            transport = self._transports[engine, wire] = open_engine(engine, wire, self._guard)
        return transport


def _open_all(config: Config, guard: Guard) -> dict[tuple[EngineName, Wire], Transport]:
    """Every engine the declared upstreams need, open: its library is imported now, not on the first item's time."""
    opened: dict[tuple[EngineName, Wire], Transport] = {}
    for name, policy in config.upstreams.items():
        key = (policy.engine, _wire(policy))
        try:
            parse_url(policy.base_url)
            if key not in opened:
                opened[key] = open_engine(*key, guard)
        except (InvalidRequest, OSError) as error:
            raise ConfigError("configuration", f"upstreams.{name}", str(error), "mend what it names") from error
    return opened


def _origin(url: Url) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port


def _limit(policy: Policy) -> float:
    """The declared limit; `inf` where there is none."""
    return inf if policy.concurrency.limit is None else policy.concurrency.limit


def _health(policy: Policy) -> Health:
    adaptive, breaker = policy.concurrency.adaptive, policy.breaker
    return Health(
        Breaker(
            BreakerPolicy(
                ratio=breaker.ratio,
                min_calls=breaker.min_calls,
                window_s=breaker.window,
                open_s=breaker.open,
                max_open_s=breaker.max_open,
                trials=breaker.trials,
            )
        ),
        AdaptiveLimit(adaptive.min, adaptive.initial, adaptive.max) if policy.concurrency.limit is None else None,
    )


def _wire(policy: Policy) -> Wire:
    return Wire(
        allow_private=isinstance(policy, Declared) and policy.allow_private,
        declared=isinstance(policy, Declared),
        dns_timeout_s=policy.timeout.dns,
        connect_timeout_s=policy.timeout.connect,
        max_response=policy.max_response,
        ca_file=policy.tls.ca_file,
        cert_file=policy.tls.cert_file,
        key_file=policy.tls.key_file,
        proxy=policy.proxy_url(),
    )
