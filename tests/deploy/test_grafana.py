"""The dashboards: fresh, whole, and with something to show in every panel once there is trouble of every kind."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.faulty_service import STRATEGIES, faulty_service
from tools.prometheus import Prometheus, start_prometheus

pytestmark = pytest.mark.deploy
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "grafana" / "dashboards"
BOARDS = {file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))}
PANELS = [
    pytest.param(panel, id=f"{name}:{panel['title']}")
    for name, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]
VARIABLES = [each for each in BOARDS["paceline-overview"]["templating"]["list"] if each["type"] == "query"]
CHOICES = {"upstream": ["other", "shaky", "steady", "strict"], "strategy": sorted(STRATEGIES)}
SETTLED_WITHIN_S = 120.0
LOOKED_AT_S = 40.0


def test_the_files_are_what_the_code_gives() -> None:
    ran = subprocess.run([sys.executable, "-m", "grafana", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_there_are_three_dashboards_under_names_of_their_own() -> None:
    assert {name: board["uid"] for name, board in BOARDS.items()} == {name: name for name in BOARDS}
    assert list(BOARDS) == ["paceline-overview", "paceline-strategies", "paceline-upstream"]
    assert len({board["title"] for board in BOARDS.values()}) == 3


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_has_the_variables_and_links_to_the_others(name: str) -> None:
    board = BOARDS[name]
    assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "upstream", "strategy"]
    (link,) = board["links"]
    assert (link["type"], link["includeVars"], link["keepTime"]) == ("dashboards", True, True)
    assert set(link["tags"]) <= set(board["tags"])


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_to_do_and_in_which_unit(panel: dict[str, Any]) -> None:
    shows, _, do = panel["description"].partition("\n\n**What to do:** ")
    assert len(shows) > 20
    assert len(do) > 20
    if panel["type"] == "heatmap":
        assert panel["options"]["yAxis"]["unit"] == "s"
    elif panel["type"] not in ("state-timeline", "table"):
        assert panel["fieldConfig"]["defaults"]["unit"] in {"reqps", "s", "short", "percentunit", "bytes"}
    assert panel["datasource"]["uid"] == "${datasource}"
    assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


@pytest.mark.parametrize("name", BOARDS)
def test_panels_lie_beside_each_other_and_none_is_narrower_than_a_sixth(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        assert place["w"] >= 4
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_grafana_and_the_sidecar_are_given_every_dashboard() -> None:
    kustomization = yaml.safe_load((ROOT / "grafana/kustomization.yaml").read_text())
    (generated,) = kustomization["configMapGenerator"]
    assert generated["files"] == [f"dashboards/{name}.json" for name in BOARDS]
    assert "grafana_dashboard" in kustomization["generatorOptions"]["labels"]
    assert sum(len(json.dumps(board, indent=2)) for board in BOARDS.values()) < 900_000  # a ConfigMap holds a MiB
    provisioning = ROOT / "grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/paceline.yml").read_text())["providers"]
    assert provider["type"] == "file"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert (source["type"], source["jsonData"]["timeInterval"]) == ("prometheus", scraped)


async def test_every_query_of_every_panel_has_something_to_show(tmp_path: Path) -> None:
    async with (
        faulty_service(tmp_path) as server,
        start_prometheus([server.base_url], tmp_path) as prometheus,
    ):
        given_up_at = time.monotonic() + SETTLED_WITHIN_S
        while True:
            await asyncio.sleep(5)
            shown = {query: await _shown(prometheus, query[-1]) for query in _queries()}
            empty = ["; ".join(query) for query, series in shown.items() if not series]
            if not empty:
                break
            assert time.monotonic() < given_up_at, "nothing to show in:\n" + "\n".join(empty)
        assert await _choices(prometheus) == CHOICES
    for (board, panel, ref, _), series in shown.items():
        print(f"{board} | {panel} | {ref} | {series}")  # `pytest -s` shows the table


def _queries() -> Iterator[tuple[str, str, str, str]]:
    """Dashboard, panel, reference and expression; a repeated panel once for each strategy."""
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                for strategy in STRATEGIES if panel.get("repeat") else [None]:
                    expr, title = target["expr"], panel["title"]
                    if strategy:
                        expr, title = (text.replace("$strategy", strategy) for text in (expr, title))
                    yield name, title, target["refId"], expr


async def _choices(prometheus: Prometheus) -> dict[str, list[str]]:
    """What there is to choose from, asked as the variables ask."""
    found = {}
    for variable in VARIABLES:
        asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        assert asked
        found[variable["name"]] = await prometheus.label_values(asked[2], asked[1])
    return found


async def _shown(prometheus: Prometheus, expr: str) -> int:
    """The number of series of a query, with all chosen, that had a value above zero lately; an error fails the test."""
    everything = {variable["name"]: variable["allValue"] for variable in VARIABLES}
    for name, value in {**everything, "__rate_interval": "10s", "__range": "30s"}.items():
        expr = expr.replace(f"${name}", value)
    assert "$" not in expr, expr
    now = time.time()
    series = await prometheus.query_range(expr, start=now - LOOKED_AT_S, end=now, step=2)
    return sum(any(0 < float(value) < math.inf for _, value in each["values"]) for each in series)
