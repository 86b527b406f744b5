"""Write the dashboards, or with `--check` exit 1 naming those that are not what the code gives."""

from __future__ import annotations

import sys
from pathlib import Path

from grafana.overview import overview_dashboard
from grafana.panels import to_json
from grafana.strategies import strategies_dashboard
from grafana.upstream import upstream_dashboard

DASHBOARDS_DIR = Path(__file__).parent / "dashboards"


def render_dashboards() -> dict[Path, str]:
    """The text of every dashboard, by its file."""
    return {
        DASHBOARDS_DIR / f"{made.uid}.json": to_json(made)
        for made in (overview_dashboard(), strategies_dashboard(), upstream_dashboard())
    }


def main() -> None:
    files = render_dashboards()
    if sys.argv[1:] == ["--check"]:
        stale = [file for file, text in files.items() if not file.exists() or file.read_text() != text]
        sys.exit(f"stale, run make dashboards: {', '.join(file.name for file in stale)}" if stale else 0)
    DASHBOARDS_DIR.mkdir(exist_ok=True)
    for file, text in files.items():
        file.write_text(text)


if __name__ == "__main__":
    main()
