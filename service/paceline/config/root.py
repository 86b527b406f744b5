"""The root of the configuration: one section for the service, one for egress, and the upstreams."""

from __future__ import annotations

from pydantic import Field

from paceline.config.compare import CompareConfig
from paceline.config.egress import EgressConfig
from paceline.config.policy import PolicyConfig
from paceline.config.section import ConfigSection
from paceline.config.server import ServerConfig
from paceline.config.upstream import UpstreamConfig
from paceline.config.value_types import UpstreamName


class Config(ConfigSection):
    """The whole configuration of one service."""

    server: ServerConfig = ServerConfig()
    """Where the service listens and what it takes on."""
    egress: EgressConfig = EgressConfig()
    """What URLs may be reached besides the declared upstreams."""
    compare: CompareConfig = CompareConfig()
    """What the classic forms call."""
    defaults: PolicyConfig = PolicyConfig()
    """For undeclared hosts, and under every upstream."""
    upstreams: dict[UpstreamName, UpstreamConfig] = Field(default_factory=dict)
    """The declared upstreams by name."""

    @property
    def policy_for_undeclared(self) -> PolicyConfig:
        """The policy of each host that no upstream declares."""
        return self.defaults
