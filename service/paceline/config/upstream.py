"""An entry of `upstreams`: where the API is, the credential that goes there, and its policy."""

from __future__ import annotations

from base64 import b64encode

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from paceline.config.policy import PolicyConfig
from paceline.config.section import ConfigSection
from paceline.config.url_types import BaseUrl, is_private_url
from paceline.config.value_types import HeaderName, HeaderValue, SecretToken


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
