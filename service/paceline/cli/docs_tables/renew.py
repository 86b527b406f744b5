"""`paceline schema`: what the repository keeps of the code, as `make schema` writes it."""

from __future__ import annotations

import json
from pathlib import Path

from paceline.cli.docs_tables.codes import error_code_table, problem_code_table
from paceline.cli.docs_tables.verdicts import verdict_table
from paceline.config import json_schema, settings_table


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
