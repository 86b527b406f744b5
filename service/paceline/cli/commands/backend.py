"""What a command goes through: a running service, or an engine of its own with a configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paceline.cli.io.service_client import ServiceClient
    from paceline.config import Config


def remote_service(
    server: str | None, key: str | None, key_file: Path | None, config: Path | None
) -> ServiceClient | None:
    """The service to go through, if one is named; its key and our own configuration exclude each other."""
    from paceline.cli.flag_parsing import read_api_key
    from paceline.cli.io.service_client import ServiceClient
    from paceline.cli.usage_error import UsageError

    if server is None:
        if key is not None or key_file is not None:
            raise UsageError("--key and --key-file: belong to a --server; name one")
        return None
    if config is not None:
        raise UsageError("--config: the service at --server has its own; give one of them")
    return ServiceClient(server, read_api_key(key, key_file))


def local_config(file: Path | None) -> Config:
    """The configuration of an engine of its own."""
    from paceline.settings import read_config, read_settings

    return read_config(read_settings(config=file), os.environ)
