"""The `compare` section: what the classic forms call."""

from __future__ import annotations

from pydantic import Field

from paceline.config.section import ConfigSection


class CompareTargetConfig(ConfigSection):
    """A path of a declared upstream."""

    upstream: str
    """The upstream's name."""
    path: str = Field(default="/", pattern=r"^/\S*$")
    """The path, appended to its `base_url`."""


class CompareConfig(ConfigSection):
    """What the classic forms `/sync`, `/async` and `/async_sem` call."""

    target: CompareTargetConfig | None = None
    """Where they send; they answer an error until it is given."""
