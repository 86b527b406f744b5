"""Write the dashboards, or with `--check` exit 1 naming those that are not what the code gives."""

from __future__ import annotations

import sys
from pathlib import Path

from grafana.overview import overview
from grafana.parts import as_json
from grafana.strategies import strategies
from grafana.upstream import upstream

FOLDER = Path(__file__).parent / "dashboards"


def rendered() -> dict[Path, str]:
    """The text of every dashboard, by its file."""
    return {FOLDER / f"{made.uid}.json": as_json(made) for made in (overview(), strategies(), upstream())}


def main() -> None:
    files = rendered()
    if sys.argv[1:] == ["--check"]:
        stale = [file for file, text in files.items() if not file.exists() or file.read_text() != text]
        sys.exit(f"stale, run make dashboards: {', '.join(file.name for file in stale)}" if stale else 0)
    FOLDER.mkdir(exist_ok=True)
    for file, text in files.items():
        file.write_text(text)


if __name__ == "__main__":
    main()
