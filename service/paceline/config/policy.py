"""How an upstream is called: the keys that `defaults` and every upstream have in common."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from paceline.config.limits import ConcurrencyConfig, RateWindowConfig
from paceline.config.resilience import BreakerConfig, RetryConfig, TimeoutConfig
from paceline.config.section import ConfigSection
from paceline.config.url_types import ProxyUrl
from paceline.config.value_types import (
    DialectName,
    HeaderName,
    HeaderValue,
    PartitionRule,
    PositiveSeconds,
    PositiveSize,
    Seconds,
)
from paceline.model import TRANSIENT_STATUSES, Rate, RetryPolicy


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
