"""`paceline check-config FILE`: is it usable, and if not, everything that is wrong with it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from paceline.api.code_tables import error_code_table, problem_code_table
from paceline.config import json_schema, load_config, settings_table
from paceline.errors import ConfigError
from paceline.resilience.verdict_table import verdict_table
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


def replace_reference_tables(file: Path) -> None:
    """Put each generated table in the place of the one that `file` holds, from its heading to its last row."""
    text = file.read_text(encoding="utf-8")
    for table in (settings_table(), error_code_table(), problem_code_table(), verdict_table()):
        text = _replace_table(text, table)
    file.write_text(text, encoding="utf-8")


def _replace_table(text: str, table: str) -> str:
    rows, lines = table.splitlines(), text.splitlines()
    if rows[0] not in lines:
        return text
    first = lines.index(rows[0])
    end = next((index for index in range(first, len(lines)) if not lines[index].startswith("|")), len(lines))
    return "\n".join([*lines[:first], *rows, *lines[end:]]) + "\n"
