"""The policy of one upstream: every key an upstream may have, its default and what it means."""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from paceline.config.value_types import (
    BaseUrl,
    ConfigSection,
    DialectName,
    ErrorStatus,
    HeaderName,
    HeaderValue,
    NonNegativeFloat,
    NonNegativeInt,
    PartitionRule,
    PositiveFloat,
    PositiveInt,
    PositiveSeconds,
    PositiveSize,
    ProxyUrl,
    Ratio,
    Seconds,
    SecretToken,
    is_private_url,
)
from paceline.model import TRANSIENT_STATUSES, Rate, RetryPolicy


class RateWindowConfig(ConfigSection):
    """At most `limit` units in any stretch of `per`."""

    limit: PositiveFloat
    """How many units fit into any stretch of `per`."""
    per: PositiveSeconds
    """The length of the window."""
    burst: PositiveFloat | None = None
    """How many of them may go at once; `limit` unless given, 1 is an even beat."""
    unit: str = Field(default="requests", pattern=r"^[a-z][a-z0-9_-]*$")
    """What is counted: `requests`, or a unit that items name in their `cost`, such as `tokens`."""

    @field_validator("burst")
    @classmethod
    def _burst_within_limit(cls, burst: float | None, info: ValidationInfo) -> float | None:
        limit = info.data.get("limit")
        if burst is not None and limit is not None and burst > limit:
            raise ValueError("must not be above limit; lower burst or raise limit")
        return burst

    def to_rate(self) -> Rate:
        """This window as the core knows it."""
        return Rate(self.limit, self.per, self.limit if self.burst is None else self.burst, self.unit)


class AdaptiveLimitConfig(ConfigSection):
    """How many calls `adaptive` keeps in flight where no limit is declared: learned from the gradient of latency."""

    min: PositiveInt = 1
    """Never fewer."""
    max: PositiveInt = Field(default=200, validate_default=True)
    """Never more."""
    initial: PositiveInt = Field(default=20, validate_default=True)
    """What it starts with; between `min` and `max`."""

    @field_validator("max")
    @classmethod
    def _max_not_below_min(cls, max_limit: int, info: ValidationInfo) -> int:
        if max_limit < info.data.get("min", 1):
            raise ValueError("must not be below min; raise max or lower min")
        return max_limit

    @field_validator("initial")
    @classmethod
    def _initial_between(cls, initial: int, info: ValidationInfo) -> int:
        if "min" in info.data and "max" in info.data and not info.data["min"] <= initial <= info.data["max"]:
            raise ValueError("must lie between min and max; change one of them")
        return initial


class ConcurrencyConfig(ConfigSection):
    """How many calls may be in flight: a declared `limit`, or `adaptive`."""

    limit: PositiveInt | None = None
    """Calls in flight, whatever the strategy."""
    adaptive: AdaptiveLimitConfig = AdaptiveLimitConfig()
    """Binds the `adaptive` strategy where no `limit` is declared."""

    @model_validator(mode="after")
    def _not_both(self) -> ConcurrencyConfig:
        if self.limit is not None and "adaptive" in self.model_fields_set:
            raise ValueError("has both limit and adaptive; keep one of them")
        return self

    @property
    def initial(self) -> int:
        """Calls in flight under `adaptive` where `limit` is None."""
        return self.adaptive.initial


class BasicAuthConfig(ConfigSection):
    """A user and password."""

    user: str = Field(pattern=r"^[^:\x00-\x1f\x7f]*$")
    """The user, without a colon."""
    password: SecretStr
    """The password."""


class HeaderAuthConfig(ConfigSection):
    """A credential in a header of the upstream's own."""

    name: HeaderName
    """The header's name."""
    value: HeaderValue
    """The header's value."""


class AuthConfig(ConfigSection):
    """The credential attached to every call of one upstream; exactly one kind."""

    bearer: SecretToken | None = None
    """A token for `Authorization: Bearer`."""
    basic: BasicAuthConfig | None = None
    """A user and password for `Authorization: Basic`."""
    header: HeaderAuthConfig | None = None
    """A header of the upstream's own, such as `X-Shopify-Access-Token`."""

    @model_validator(mode="after")
    def _exactly_one(self) -> AuthConfig:
        if sum(kind is not None for kind in (self.bearer, self.basic, self.header)) != 1:
            raise ValueError("needs exactly one credential; keep one of bearer, basic and header")
        return self

    def as_header(self) -> tuple[str, str]:
        """The header to attach: its lower-case name and its value in the clear."""
        if self.header is not None:
            return self.header.name, self.header.value.get_secret_value()
        if self.basic is not None:
            pair = f"{self.basic.user}:{self.basic.password.get_secret_value()}"
            return "authorization", "Basic " + b64encode(pair.encode()).decode()
        assert self.bearer is not None
        return "authorization", f"Bearer {self.bearer.get_secret_value()}"


class RetryConfig(ConfigSection):
    """How often and how long apart an item is tried again."""

    attempts: PositiveInt = 3
    """Attempts in all; 1 means never again, not even after a throttle."""
    throttles: NonNegativeInt = 10
    """How many refusals for rate are waited out besides."""
    base: PositiveSeconds = 0.1
    """The first backoff's upper bound; it doubles, and full jitter picks a moment within it."""
    cap: PositiveSeconds = 20.0
    """The longest backoff of our own; a longer Retry-After is still obeyed."""
    budget_ratio: Ratio = 0.2
    """Retries for each first send of the last ten seconds, per upstream."""
    budget_per_s: NonNegativeFloat = 3.0
    """Retries a second besides."""
    statuses: frozenset[ErrorStatus] = frozenset()
    """Further statuses to try again, beside 408, 425, 500, 502, 503, 504, 520 to 524 and 529."""

    @field_validator("cap")
    @classmethod
    def _cap_not_below_base(cls, cap: float, info: ValidationInfo) -> float:
        if cap < info.data.get("base", 0):
            raise ValueError("must not be shorter than base; raise cap or lower base")
        return cap


class BreakerConfig(ConfigSection):
    """When calls to a failing upstream stop, and how its recovery is looked for; binds `adaptive`."""

    ratio: Ratio = 0.5
    """It opens when this share of the calls of the last `window` failed."""
    min_calls: PositiveInt = 20
    """And there were so many at least."""
    window: PositiveSeconds = 10.0
    """How far back calls count."""
    open: PositiveSeconds = 1.0
    """The first rest; it doubles with each trial that fails."""
    max_open: PositiveSeconds = Field(default=5.0, validate_default=True)
    """The longest rest between two trials."""
    trials: PositiveInt = 3
    """The most trials that are unanswered at once."""

    @field_validator("max_open")
    @classmethod
    def _max_not_below_open(cls, max_open: float, info: ValidationInfo) -> float:
        if max_open < info.data.get("open", 0):
            raise ValueError("must not be shorter than open; raise max_open or lower open")
        return max_open


class TimeoutConfig(ConfigSection):
    """How long each step may take."""

    dns: PositiveSeconds = 2.0
    """Looking up the host."""
    connect: PositiveSeconds = 3.0
    """Connecting, with TLS."""
    attempt: PositiveSeconds = 10.0
    """One attempt, up to the last byte of its answer."""
    item: PositiveSeconds = 30.0
    """An item's time in flight and in backoff, over all its attempts."""


class TlsConfig(ConfigSection):
    """Trust and identity, as PEM files; relative paths start at the configuration's folder."""

    ca_file: str | None = None
    """Certificate authorities to trust instead of the usual ones."""
    cert_file: str | None = None
    """Our own certificate, for an upstream that asks for one."""
    key_file: str | None = None
    """The private key of `cert_file`."""

    @model_validator(mode="after")
    def _certificate_with_key(self) -> TlsConfig:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("needs cert_file and key_file together; give both or neither")
        return self


class PolicyConfig(ConfigSection):
    """How an upstream is called: the keys of `defaults`, and of every upstream."""

    engine: Literal["aiohttp", "httpx"] = "aiohttp"
    """The HTTP engine."""
    allow_unpaced: bool = False
    """Let `/v1/compare` with `unpaced: true` call it outside its declared windows."""
    rate: tuple[RateWindowConfig, ...] = ()
    """What the upstream allows; every window binds."""
    dialect: DialectName = "auto"
    """How the upstream writes its rate headers; `auto` goes by the names it sees (docs/dialects.md)."""
    transit: Seconds = 0.05
    """The longest a request takes to be counted by the upstream once it is written."""
    max_pause: PositiveSeconds = 900.0
    """The longest the upstream's own word may pause it."""
    concurrency: ConcurrencyConfig = ConcurrencyConfig()
    """How many calls may be in flight."""
    partition: PartitionRule = "upstream"
    """What shares one budget: the `upstream`, a `host`, a `header:NAME` such as the credential, or a `path:N` prefix of
    N segments after the base path."""
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Sent with every call unless the item gives its own."""
    retry: RetryConfig = RetryConfig()
    """How often and how long apart an item is tried again."""
    breaker: BreakerConfig = BreakerConfig()
    """When calls to a failing upstream stop."""
    timeout: TimeoutConfig = TimeoutConfig()
    """How long each step may take."""
    max_response: PositiveSize = 10 * 1024 * 1024
    """The most an answer's body may hold, decoded."""
    idempotency_header: HeaderName | None = None
    """A header, such as `Idempotency-Key`, that gets a key which is the same over all attempts of an item."""
    tls: TlsConfig = TlsConfig()
    """Trust and identity."""
    proxy: ProxyUrl | None = None
    """A forward proxy to go through, `http://host:port`."""

    @field_validator("headers", mode="before")
    @classmethod
    def _each_header_once(cls, headers: Any) -> Any:
        if isinstance(headers, dict) and len({str(name).lower() for name in headers}) < len(headers):
            raise ValueError("has one header in two spellings; keep one of them")
        return headers

    def to_rates(self) -> tuple[Rate, ...]:
        """The declared windows as the core knows them."""
        return tuple(window.to_rate() for window in self.rate)

    def to_retry_policy(self) -> RetryPolicy:
        """The retries as the core knows them."""
        return RetryPolicy(
            attempts=self.retry.attempts,
            throttles=self.retry.throttles,
            base_s=self.retry.base,
            cap_s=self.retry.cap,
            max_pause_s=self.max_pause,
            statuses=TRANSIENT_STATUSES | self.retry.statuses,
        )

    def header_pairs(self) -> tuple[tuple[str, str], ...]:
        """The configured headers: lower-case names, values in the clear."""
        return tuple((name, value.get_secret_value()) for name, value in self.headers.items())

    def proxy_url(self) -> str | None:
        """The proxy in the clear, its password included."""
        return None if self.proxy is None else self.proxy.get_secret_value()


class UpstreamConfig(PolicyConfig):
    """A remote API: where it is, who we are to it, and its policy."""

    allow_private: bool = False
    """It may be on a private or loopback address."""
    base_url: BaseUrl
    """Scheme, host and path that its items' paths are appended to."""
    auth: AuthConfig | None = None
    """The credential to attach; it replaces a caller's header of that name."""

    @field_validator("base_url")
    @classmethod
    def _private_only_where_allowed(cls, url: str, info: ValidationInfo) -> str:
        if is_private_url(url) and not info.data.get("allow_private", True):
            raise ValueError("is at a private address; add allow_private: true beside it if that is meant")
        return url

    def default_headers(self) -> tuple[tuple[str, str], ...]:
        """What an item's own headers are laid over: the configured headers without the credential's name."""
        name = None if self.auth is None else self.auth.as_header()[0]
        return tuple(pair for pair in self.header_pairs() if pair[0] != name)
