"""`paceline check-config FILE`: is it usable, and if not, everything that is wrong with it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from paceline.config import json_schema, load_config, settings_table
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


def print_schema() -> None:
    """Print the JSON schema of a configuration file, as `config/paceline.schema.json` holds it."""
    print(json.dumps(json_schema(), indent=2))


def print_reference() -> None:
    """Print the table of settings, as `docs/configuration.md` holds it."""
    print(settings_table(), end="")


def replace_reference_table(file: Path) -> None:
    """Put the table of settings in the place of the one that `file` holds, from its heading to its last row."""
    table = settings_table().splitlines()
    lines = file.read_text(encoding="utf-8").splitlines()
    first = lines.index(table[0])
    end = next((index for index in range(first, len(lines)) if not lines[index].startswith("|")), len(lines))
    file.write_text("\n".join([*lines[:first], *table, *lines[end:]]) + "\n", encoding="utf-8")
