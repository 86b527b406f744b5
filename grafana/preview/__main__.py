"""Run a service in trouble for some minutes under a real Prometheus, ask every panel's queries, draw each dashboard.

Needs Prometheus, npm's packages of package.json, and chromium-headless-shell. Run by `make preview`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from grafana.__main__ import DASHBOARDS_DIR
from tools.faulty_service import STRATEGIES, faulty_service
from tools.prometheus import Prometheus, start_prometheus

HERE = Path(__file__).parent
SCREENSHOTS_DIR = HERE.parents[1] / "docs" / "dashboards"
DASHBOARD_FILES = sorted(DASHBOARDS_DIR.glob("*.json"))
WIDTH_PX = 1280
ROW_PX = 38
"""The height of a grid unit with its gap, as in Grafana."""
RUN_S = 240.0
STEP_S = 2.0
ESBUILD_FLAGS = (
    "--bundle",
    "--jsx=automatic",
    '--define:process.env.NODE_ENV="production"',
    "--define:global=window",
    "--loader:.svg=dataurl",
    "--loader:.ttf=dataurl",
    "--log-level=error",
)
BROWSER_FLAGS = ("--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=15000")


async def main() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        bundle = folder / "panels.js"
        _run(HERE / "node_modules/.bin/esbuild", HERE / "panels.tsx", f"--outfile={bundle}", *ESBUILD_FLAGS)
        async with (
            faulty_service(folder, cycle_s=48) as server,
            start_prometheus([server.base_url], folder) as prometheus,
        ):
            await asyncio.sleep(RUN_S)
            boards = {
                file.stem: await _with_query_results(json.loads(file.read_text()), prometheus)
                for file in DASHBOARD_FILES
            }
        SCREENSHOTS_DIR.mkdir(exist_ok=True)
        for stem, board in boards.items():
            page = folder / f"{stem}.html"
            page.write_text(_html_page(board, bundle))
            height = ROW_PX * max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in board["panels"]) + 90
            screenshot = f"--screenshot={SCREENSHOTS_DIR / stem}.png"
            _run(
                "chromium-headless-shell",
                *BROWSER_FLAGS,
                f"--window-size={WIDTH_PX},{height}",
                screenshot,
                page.as_uri(),
            )


async def _with_query_results(board: dict[str, Any], prometheus: Prometheus) -> dict[str, Any]:
    """The dashboard with repeated panels laid out and every query's result in place of the query."""
    end = time.time()
    start = end - RUN_S + 20
    panels = []
    for panel in _expand_repeats(board["panels"]):
        results = []
        for target in panel.get("targets", []):
            expr = target["expr"]
            for name, value in {
                "strategy": panel.get("strategy", ".*"),
                "upstream": ".*",
                "__rate_interval": "12s",
                "__range": f"{RUN_S - 20:.0f}s",
            }.items():
                expr = expr.replace(f"${name}", value)
            if target.get("instant"):
                series = await prometheus.query(expr)
            else:
                series = await prometheus.query_range(expr, start=start, end=end, step=STEP_S)
            results.append({"refId": target["refId"], "legend": target["legendFormat"], "series": series})
        panels.append({**panel, "results": results})
    return {"title": board["title"], "panels": panels, "start": start, "end": end, "step": STEP_S, "rowPx": ROW_PX}


def _expand_repeats(panels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Repeat what repeats for each strategy, three in a line, and move down what comes after."""
    expanded, added_height = [], 0
    for panel in panels:
        grid_pos = panel["gridPos"]
        if not panel.get("repeat"):
            expanded.append({**panel, "gridPos": {**grid_pos, "y": grid_pos["y"] + added_height}})
            continue
        for index, strategy in enumerate(STRATEGIES):
            repeat_pos = {
                "x": 8 * (index % 3),
                "y": grid_pos["y"] + added_height + grid_pos["h"] * (index // 3),
                "w": 8,
                "h": grid_pos["h"],
            }
            title = panel["title"].replace("$strategy", strategy)
            expanded.append({**panel, "title": title, "gridPos": repeat_pos, "strategy": strategy})
        added_height += grid_pos["h"] * ((len(STRATEGIES) - 1) // 3)
    return expanded


def _html_page(board: dict[str, Any], bundle: Path) -> str:
    board_json = json.dumps(board).replace("</", "<\\/")
    return (
        f'<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="{bundle.stem}.css">'
        '<body style="margin:0;background:#111217"><div id="root"></div>'
        f'<script>window.board = {board_json}</script><script src="{bundle.name}"></script>'
    )


def _run(*argv: str | Path) -> None:
    # The programs are those named above, and no argument comes from outside.
    subprocess.run([str(each) for each in argv], check=True)  # noqa: S603 - see above


if __name__ == "__main__":
    asyncio.run(main())
