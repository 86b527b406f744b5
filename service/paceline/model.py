"""Paceline's own values: what is asked, what is sent, what came back, and the one outcome of each item.

Values are frozen and slotted (msgspec structs: a tenth of a dataclass's cost to make). Two small objects are
mutable on purpose and each has one owner: a `Receipt` adds up where one item's time went, an `Exchange` records
when one attempt was written and answered. None of them can be part of a cycle, so the garbage collector need not look
at them (`gc=False`): a thousand items in flight would make it stop the event loop for a tenth of a second. Moments are
`time.perf_counter()` seconds; durations end in `_s` or `_ms`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from msgspec import UNSET, Raw, Struct, UnsetType, field

EngineName = Literal["aiohttp", "httpx"]
Headers = tuple[tuple[str, str], ...]
Cost = Mapping[str, float]
Amounts = tuple[tuple[str, float], ...]
"""A cost as pairs of unit and amount: the quicker form to go through."""

ONE_REQUEST: Cost = MappingProxyType({"requests": 1.0})


class Strategy(StrEnum):
    """How a batch is fanned out; the layers of each are written in `upstream/pipeline.py`."""

    SEQUENTIAL = "sequential"
    CONCURRENT = "concurrent"
    BOUNDED = "bounded"
    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - a strategy, no secret
    ADAPTIVE = "adaptive"


class Priority(StrEnum):
    """A waiter's class; classes share a budget 100 : 10 : 1."""

    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BULK = "bulk"


class Verdict(StrEnum):
    """What one attempt says: about the item (retry it?) and about the upstream."""

    SUCCESS = "success"
    THROTTLED = "throttled"
    TRANSIENT = "transient"
    PERMANENT = "permanent"
    IGNORED = "ignored"


class OutcomeKind(StrEnum):
    """What became of an item."""

    SUCCESS = "success"
    HTTP_ERROR = "http_error"
    TIMEOUT = "timeout"
    CONNECT_ERROR = "connect_error"
    PROTOCOL_ERROR = "protocol_error"
    TOO_LARGE = "too_large"
    REJECTED = "rejected"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    DEPENDENCY_FAILED = "dependency_failed"


class WaitReason(StrEnum):
    """What an item waited for; the label of `paceline_wait_seconds`."""

    RATE = "rate"
    CONCURRENCY = "concurrency"
    BACKOFF = "backoff"
    PAUSE = "pause"


class Expect(StrEnum):
    """How a body is to be given back."""

    AUTO = "auto"
    TEXT = "text"
    BASE64 = "base64"
    NONE = "none"


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


TRANSIENT_STATUSES = frozenset({408, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
"""Answers that another try may better, unless configured otherwise."""


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
    advertised_wait_s: float | None = None
    """The wait the last answer named, in whatever dialect."""
    retry_budget_exhausted: bool = False
    """It would have been tried again, but the upstream's retry budget was empty."""
    window_exhausted: bool = False
    """The last answer's rate headers told of a window with nothing left."""
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

    def mark_unwritten(self) -> None:
        """The connection proved dead before it took a byte: only where the engine is certain."""
        self.written_at = None


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


class ItemRetry(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What an item or a batch may say about its retries."""

    attempts: int | UnsetType = UNSET
    throttles: int | UnsetType = UNSET


Duration = str | int | float
"""As callers write one: `"250ms"`, `"30s"`, `"2m"`, or a number of seconds."""


class Item(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One request of a batch, as the caller wrote it; decoded once and never copied."""

    id: str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    upstream: str | UnsetType = UNSET
    path: str | UnsetType = UNSET
    headers: dict[str, str | list[str]] | UnsetType = UNSET
    params: dict[str, str | list[str]] | UnsetType = UNSET
    json: Raw = field(default_factory=Raw)
    body: str | UnsetType = UNSET
    body_base64: str | UnsetType = UNSET
    depends_on: list[str] | UnsetType = UNSET
    dependsOn: list[str] | UnsetType = UNSET  # noqa: N815 - the spelling some callers already use
    idempotent: bool = False
    cost: float | dict[str, float] | UnsetType = UNSET
    timeout: Duration | UnsetType = UNSET
    retry: ItemRetry | UnsetType = UNSET
    expect: Expect | UnsetType = UNSET


class Defaults(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What every item of a batch starts from; an item's own word wins, headers and params merge by name."""

    upstream: str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    headers: dict[str, str | list[str]] | UnsetType = UNSET
    params: dict[str, str | list[str]] | UnsetType = UNSET
    timeout: Duration | UnsetType = UNSET
    expect: Expect | UnsetType = UNSET
    cost: float | dict[str, float] | UnsetType = UNSET
    idempotent: bool = False


class Tenant(Struct, frozen=True):
    """Who asks: an API key's name and what it may reach."""

    name: str = "anonymous"
    weight: float = 1.0
    """Its share of a budget among the tenants of its class."""
    max_priority: Priority = Priority.INTERACTIVE
    upstreams: frozenset[str] | None = None
    """The only upstreams it may reach; None is all, undeclared hosts included."""


class Batch(Struct, frozen=True):
    """A batch that was checked as a whole: its items may still prove unusable one by one."""

    items: Sequence[Item]
    strategy: Strategy = Strategy.ADAPTIVE
    max_concurrency: int | None = None
    rate: Rate | None = None
    deadline_s: float = 50.0
    priority: Priority = Priority.NORMAL
    halt: bool = False
    retry: ItemRetry = ItemRetry()
    defaults: Defaults = Defaults()
    tenant: Tenant = Tenant()
    unpaced: bool = False
    """Outside the upstreams' windows, feeding nothing: only for a comparison, and only where an upstream allows it."""
    engine: EngineName | None = None
    """An engine other than the upstream's own."""


class Timing(Struct, frozen=True, gc=False):
    """An outcome's receipt in milliseconds; the five parts add up to `total_ms` but for Paceline's own work."""

    start_ms: float
    total_ms: float
    queue_ms: float
    rate_wait_ms: float
    pause_ms: float
    backoff_ms: float
    upstream_ms: float
    limited_by: str


class Failure(Struct, frozen=True, gc=False):
    """Why an item has no success. `sent` is false only when no byte of it can have reached the upstream."""

    code: str
    message: str
    sent: bool
    retry_after_ms: float | None = None


class Outcome(Struct, frozen=True, gc=False):
    """The one answer an item gets. Encodes to exactly the object the API documents."""

    id: str
    index: int
    upstream: str
    outcome: OutcomeKind
    status: int | None
    headers: dict[str, str | list[str]]
    body: Raw | str | None
    body_encoding: str
    attempts: int
    error: Failure | None
    timing: Timing


class Summary(Struct, frozen=True, gc=False):
    """A batch in six numbers; `failed` is every outcome but success and rejected."""

    total: int
    succeeded: int
    failed: int
    rejected: int
    attempts: int
    retries: int
