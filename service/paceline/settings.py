"""Settings of one process, from PACELINE_* environment variables and command flags; a flag wins.

Settings of the service rather than of a process are in the configuration file; host and ports are in both, and the
process's own value wins.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from paceline.config import Config, load_config
from paceline.config.error_messages import describe_error
from paceline.config.replica_share import share_for_replica
from paceline.config.url_types import Host
from paceline.config.value_types import Port
from paceline.errors import ConfigError

DEFAULT_CONFIG_PATH = Path("config/paceline.yaml")
"""Loaded when no file is named and this one exists; else the built-in defaults apply."""


class Settings(BaseSettings):
    """The environment and flags of one process."""

    model_config = SettingsConfigDict(
        env_prefix="PACELINE_",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    config: Path | None = None
    """The configuration file; `config/paceline.yaml` where that exists."""
    host: Host | None = None
    """The address to listen on, instead of `server.host`."""
    port: Port | None = None
    """The port to listen on, instead of `server.port`."""
    admin_port: Port | None = None
    """The port for health, readiness and metrics, instead of `server.admin_port`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is logged."""
    log_format: Literal["json", "console"] = "json"
    """One JSON object a line, or lines for people."""
    replicas: int = Field(default=1, ge=1, le=1000)
    """How many replicas serve side by side without a shared store: each keeps 1/N of every declared limit."""
    insecure: bool = False
    """Listen beyond loopback without `server.api_keys`."""


def read_settings(**flags: Any) -> Settings:
    """The settings of this process; a flag that is None was not given.

    Raises:
        ConfigError: one of them cannot be used.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first, *further = [
            ConfigError("environment or flags", f"PACELINE_{str(detail['loc'][0]).upper()}", *describe_error(detail))
            for detail in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigError(first.file, first.key, first.problem, first.fix, further) from None


def find_config_file(settings: Settings) -> Path | None:
    """The file to load, or None where the built-in defaults apply."""
    if settings.config is not None:
        return settings.config
    return DEFAULT_CONFIG_PATH if DEFAULT_CONFIG_PATH.is_file() else None


def read_config(settings: Settings, environ: Mapping[str, str]) -> Config:
    """The configuration file with this process's host and ports. Can be called again to reload.

    Raises:
        ConfigError: the file cannot be used, or both ports are the same.
    """
    file = find_config_file(settings)
    config = Config() if file is None else load_config(file, environ)
    overrides = settings.model_dump(include={"host", "port", "admin_port"}, exclude_none=True)
    server = config.server.model_copy(update=overrides)
    if server.admin_port == server.port:
        raise ConfigError("environment or flags", "PACELINE_ADMIN_PORT", "is the same as port", "choose another")
    return share_for_replica(config.model_copy(update={"server": server}), settings.replicas)


def require_api_keys_beyond_loopback(config: Config, host: str, insecure: bool, file: str = "configuration") -> None:
    """Let a service without API keys listen on loopback only.

    Raises:
        ConfigError: `host` is reachable from other machines, no key is required, and `insecure` is not given.
    """
    if not config.server.api_keys and not insecure and not is_loopback(host):
        raise ConfigError(
            file,
            "server.api_keys",
            f"anyone who reaches {host} could send requests through this service",
            "add an API key, listen on 127.0.0.1, or give --insecure if that is meant",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener at `host`; names other than localhost are not resolved."""
    if host in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
