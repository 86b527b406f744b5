"""The `server` section: where the service listens, what it takes on, and the API keys it accepts."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from paceline.config.section import ConfigSection
from paceline.config.url_types import Host
from paceline.config.value_types import (
    Port,
    PositiveFloat,
    PositiveInt,
    PositiveSeconds,
    PositiveSize,
    Seconds,
    SecretToken,
)
from paceline.model import Priority

MIN_KEY_LENGTH = 16


def _check_key_length(key: SecretToken) -> SecretToken:
    if len(key.get_secret_value()) < MIN_KEY_LENGTH:
        raise ValueError(
            f"is shorter than {MIN_KEY_LENGTH} characters and could be guessed; "
            'make one with: python3 -c "import secrets; print(secrets.token_urlsafe())"'
        )
    return key


class ApiKeyConfig(ConfigSection):
    """A caller that is let in, and what it may ask for."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """The caller, as logs show it: the tenant."""
    key: Annotated[SecretToken, AfterValidator(_check_key_length)]
    """The secret it sends as `Authorization: Bearer` or `Paceline-Key`."""
    weight: PositiveFloat = 1
    """Its share of every budget among callers of one priority; 3 gets three times what 1 gets."""
    max_priority: Priority = Priority.INTERACTIVE
    """The highest priority it may ask for."""
    upstreams: tuple[str, ...] | None = None
    """The only upstreams it may reach; all of them, and undeclared hosts, unless given."""


class ServerConfig(ConfigSection):
    """Where the service listens and what it takes on."""

    host: Host = "127.0.0.1"
    """The address to listen on; beyond loopback only with `api_keys`."""
    port: Port = 8080
    """The port to listen on."""
    admin_port: Port | None = None
    """A second port for health, readiness and metrics, where load cannot starve them."""
    max_body: PositiveSize = 8 * 1024 * 1024
    """The largest request body taken."""
    max_items: PositiveInt = 1000
    """The most items in a batch."""
    max_in_flight_items: PositiveInt = 20_000
    """The most items in the service at one time."""
    max_batch_response: PositiveSize = 64 * 1024 * 1024
    """The most bodies a JSON answer holds; streams are not bound by it."""
    max_deadline: PositiveSeconds = 900.0
    """The longest deadline a caller may ask for."""
    pre_stop: Seconds = 0.0
    """How long new work is still taken after SIGTERM, unready already: a load balancer needs time to notice."""
    drain: PositiveSeconds = 25.0
    """How long work in flight may go on after SIGTERM and `pre_stop`."""
    hosts: tuple[Host, ...] = ()
    """The Host names answered beyond loopback; all unless given."""
    api_keys: tuple[ApiKeyConfig, ...] = ()
    """Who is let in; everybody unless given."""

    @field_validator("admin_port")
    @classmethod
    def _ports_differ(cls, admin_port: int | None, info: ValidationInfo) -> int | None:
        if admin_port is not None and admin_port == info.data.get("port"):
            raise ValueError("is the same as port; choose another or remove it")
        return admin_port

    @field_validator("api_keys")
    @classmethod
    def _callers_differ(cls, api_keys: tuple[ApiKeyConfig, ...]) -> tuple[ApiKeyConfig, ...]:
        names: dict[str, int] = {}
        secrets: dict[str, int] = {}
        for index, entry in enumerate(api_keys):
            if (first := names.setdefault(entry.name, index)) != index:
                raise ValueError(f"[{first}] and [{index}] have the same name; give each caller its own")
            if (first := secrets.setdefault(entry.key.get_secret_value(), index)) != index:
                raise ValueError(f"[{first}] and [{index}] have the same key; give each caller its own")
        return api_keys
