"""The `egress` section: the hosts that URLs may reach."""

from __future__ import annotations

from typing import Literal

from paceline.config.section import ConfigSection
from paceline.config.url_types import HostOrNetwork
from paceline.config.value_types import Port


class EgressConfig(ConfigSection):
    """What URLs may be reached besides the declared upstreams."""

    mode: Literal["public", "declared"] = "public"
    """`public` lets items name any public URL, `declared` only the upstreams below."""
    allow: tuple[HostOrNetwork, ...] = ()
    """Private ranges or hosts that plain URLs may reach all the same."""
    deny: tuple[HostOrNetwork, ...] = ()
    """Ranges or hosts that nothing may reach."""
    ports: tuple[Port, ...] = (80, 443)
    """The ports of undeclared hosts."""
