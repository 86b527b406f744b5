"""`paceline check-config FILE`: is it usable, and if not, everything that is wrong with it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from paceline.config import load_config
from paceline.errors import ConfigError
from paceline.settings import require_api_keys_beyond_loopback


def check_config(file: Path) -> int:
    """Print what the file declares, or file, key and fix of each problem; 0 when it can be used, else 1."""
    try:
        config = load_config(file, os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    names = ", ".join(config.upstreams) or "none"
    print(f"{file}: ok\n  listens on {config.server.host}:{config.server.port}\n  upstreams: {names}")
    try:
        require_api_keys_beyond_loopback(config, config.server.host, insecure=False, file=str(file))
    except ConfigError as error:
        print(f"note: serve will refuse this as it is\n{error}", file=sys.stderr)
    return 0
