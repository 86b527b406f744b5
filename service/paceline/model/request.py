"""One attempt: the request that is sent, the response that comes back, and the two records written on the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from msgspec import Struct

from paceline.model.enums import Verdict
from paceline.model.retried_statuses import TRANSIENT_STATUSES

Headers = tuple[tuple[str, str], ...]
Cost = Mapping[str, float]
Amounts = tuple[tuple[str, float], ...]
"""A cost as pairs of unit and amount: the quicker form to go through."""
ONE_REQUEST: Cost = MappingProxyType({"requests": 1.0})


class Rate(Struct, frozen=True, gc=False):
    """A rate window: at most `limit` units in any stretch of `per_s` seconds, `burst` of them at once."""

    limit: float
    per_s: float
    burst: float
    unit: str = "requests"

    @property
    def per_second(self) -> float:
        return self.limit / self.per_s


class Url(Struct, frozen=True, gc=False):
    """An absolute http(s) URL that was parsed and judged once; `target` is path and query as sent."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> str:
        """Scheme, host and (unless it is the scheme's own) port, as a Host header and a log may show them."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"

    def __str__(self) -> str:
        return self.origin + self.target


class RetryPolicy(Struct, frozen=True, gc=False):
    """How often and how long apart an item is tried again (seconds)."""

    attempts: int = 3
    throttles: int = 10
    base_s: float = 0.1
    cap_s: float = 20.0
    max_pause_s: float = 900.0
    statuses: frozenset[int] = TRANSIENT_STATUSES


class Receipt(Struct, gc=False):
    """Where one item's time goes, added up by the layers it passes; seconds. Owned by the item's own task."""

    ready_at: float = 0.0
    queue_s: float = 0.0
    rate_wait_s: float = 0.0
    pause_s: float = 0.0
    backoff_s: float = 0.0
    upstream_s: float = 0.0
    attempts: int = 0
    throttles: int = 0
    sent: bool = False
    """Some attempt's head went to a socket: the upstream may have acted on it."""
    verdict: Verdict | None = None
    """On the last attempt that ended in a response or an error; a rejected attempt leaves it unchanged."""
    advertised_wait_s: float | None = None
    """The wait that the last response named, in whatever dialect."""
    retry_budget_exhausted: bool = False
    """It would have been tried again, but the upstream's retry budget was empty."""
    retry_after_s: float | None = None
    """The wait the last answer named, or that the budget's pause means; what `error.retry_after_ms` shows."""
    budget_paused: bool = False
    """The last throttle paused the whole budget: the gate makes this item wait, so the retry layer need not."""
    throttled_at: float | None = None
    """When this item was last throttled."""


class Exchange(Struct, gc=False):
    """One attempt as its engine saw it. `on_written` is called once, when the request's head goes to the socket."""

    written_at: float | None = None
    answered_at: float | None = None
    reused: bool = False
    on_written: Callable[[float], None] | None = None

    def mark_written(self, now: float) -> None:
        """The head was handed to the socket: from here on the upstream may count it."""
        if self.written_at is None:
            self.written_at = now
            if self.on_written is not None:
                self.on_written(now)


class Request(Struct, frozen=True, gc=False):
    """One attempt to be sent. `deadline` is the moment past which nothing of it may run."""

    method: str
    url: Url
    headers: Headers
    body: bytes
    deadline: float
    receipt: Receipt
    exchange: Exchange
    retry: RetryPolicy
    repeatable: bool = True
    """Safe to send again even when the upstream may have acted on it."""
    cost: Cost = ONE_REQUEST
    timeout_s: float = 30.0
    attempt_timeout_s: float = 10.0
    attempt: int = 1


class Response(Struct, frozen=True, gc=False):
    """An upstream's answer, body fully read, decoded and capped. Header names are lower case, repeats kept."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        """The first field of this lower-case name, or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


Send = Callable[[Request], Awaitable[Response]]
"""The rest of a pipeline, down to the wire."""
