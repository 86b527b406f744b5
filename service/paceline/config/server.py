"""The whole configuration: the service itself, what it may reach, and its upstreams."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from paceline.config.fields import (
    Host,
    HostOrNetwork,
    Port,
    PositiveNumber,
    PositiveSeconds,
    PositiveSize,
    PositiveWhole,
    Seconds,
    SecretWord,
    Section,
    UpstreamName,
)
from paceline.config.policy import Policy, Upstream
from paceline.model import Priority

SHORTEST_KEY = 16


def _long_enough(key: SecretWord) -> SecretWord:
    if len(key.get_secret_value()) < SHORTEST_KEY:
        raise ValueError(
            f"is shorter than {SHORTEST_KEY} characters and could be guessed; "
            'make one with: python3 -c "import secrets; print(secrets.token_urlsafe())"'
        )
    return key


class ApiKey(Section):
    """A caller that is let in, and what it may ask for."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """The caller, as logs show it: the tenant."""
    key: Annotated[SecretWord, AfterValidator(_long_enough)]
    """The secret it sends as `Authorization: Bearer` or `Paceline-Key`."""
    weight: PositiveNumber = 1
    """Its share of every budget among callers of one priority; 3 gets three times what 1 gets."""
    max_priority: Priority = Priority.INTERACTIVE
    """The highest priority it may ask for."""
    upstreams: tuple[str, ...] | None = None
    """The only upstreams it may reach; all of them, and undeclared hosts, unless given."""


class Server(Section):
    """Where the service listens and what it takes on."""

    host: Host = "127.0.0.1"
    """The address to listen on; beyond loopback only with `api_keys`."""
    port: Port = 8080
    """The port to listen on."""
    admin_port: Port | None = None
    """A second port for health, readiness and metrics, where load cannot starve them."""
    max_body: PositiveSize = 8 * 1024 * 1024
    """The largest request body taken."""
    max_items: PositiveWhole = 1000
    """The most items in a batch."""
    max_in_flight_items: PositiveWhole = 20_000
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
    api_keys: tuple[ApiKey, ...] = ()
    """Who is let in; everybody unless given."""

    @field_validator("admin_port")
    @classmethod
    def _ports_differ(cls, admin_port: int | None, seen: ValidationInfo) -> int | None:
        if admin_port is not None and admin_port == seen.data.get("port"):
            raise ValueError("is the same as port; choose another or remove it")
        return admin_port

    @field_validator("api_keys")
    @classmethod
    def _callers_differ(cls, api_keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        names: dict[str, int] = {}
        secrets: dict[str, int] = {}
        for at, entry in enumerate(api_keys):
            if (first := names.setdefault(entry.name, at)) != at:
                raise ValueError(f"[{first}] and [{at}] have the same name; give each caller its own")
            if (first := secrets.setdefault(entry.key.get_secret_value(), at)) != at:
                raise ValueError(f"[{first}] and [{at}] have the same key; give each caller its own")
        return api_keys


class Egress(Section):
    """What URLs may be reached besides the declared upstreams."""

    mode: Literal["public", "declared"] = "public"
    """`public` lets items name any public URL, `declared` only the upstreams below."""
    allow: tuple[HostOrNetwork, ...] = ()
    """Private ranges or hosts that plain URLs may reach all the same."""
    deny: tuple[HostOrNetwork, ...] = ()
    """Ranges or hosts that nothing may reach."""
    ports: tuple[Port, ...] = (80, 443)
    """The ports of undeclared hosts."""


class Target(Section):
    """A path of a declared upstream."""

    upstream: str
    """The upstream's name."""
    path: str = Field(default="/", pattern=r"^/\S*$")
    """The path, appended to its `base_url`."""


class Compare(Section):
    """What the classic forms `/sync`, `/async` and `/async_sem` call."""

    target: Target | None = None
    """Where they send; they answer an error until it is given."""


class Config(Section):
    """The whole configuration of one service."""

    server: Server = Server()
    """Where the service listens and what it takes on."""
    egress: Egress = Egress()
    """What URLs may be reached besides the declared upstreams."""
    compare: Compare = Compare()
    """What the classic forms call."""
    defaults: Policy = Policy()
    """For undeclared hosts, and under every upstream."""
    upstreams: dict[UpstreamName, Upstream] = Field(default_factory=dict)
    """The declared upstreams by name."""

    @property
    def policy_for_undeclared(self) -> Policy:
        """The policy of each host that no upstream declares."""
        return self.defaults
