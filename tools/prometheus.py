"""Debian's Prometheus and Alertmanager as children of a test, with the configuration of deploy/prometheus.

async with start_prometheus([server.base_url], tmp_path) as prometheus:
    samples = await prometheus.query("up")
"""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yaml

from tools.free_port import free_port
from tools.processes import start_process

PROMETHEUS_DIR = Path(__file__).parents[1] / "deploy" / "prometheus"
RULES = PROMETHEUS_DIR / "rules"
_PROMETHEUS_READY = re.compile(r"Server is ready to receive web requests")
_ALERTMANAGER_READY = re.compile(r"[Ll]istening on")


class Prometheus:
    """A running Prometheus, asked over its HTTP API."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url = url
        self._http = http

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """The instant vector an expression has now.

        Raises:
            AssertionError: Prometheus cannot evaluate it; the message is its own.
        """
        return await self._query_api("/api/v1/query", query=expr)

    async def query_range(self, expr: str, *, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The series an expression has over a time, Unix seconds; raises as `query` does."""
        return await self._query_api("/api/v1/query_range", query=expr, start=str(start), end=str(end), step=str(step))

    async def label_values(self, label: str, metric: str) -> list[str]:
        async with self._http.get(f"/api/v1/label/{label}/values", params={"match[]": metric}) as answer:
            return list((await answer.json())["data"])

    async def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        return {series["metric"]["alertname"] for series in await self.query('ALERTS{alertstate="firing"}')}

    async def _query_api(self, path: str, **form: str) -> list[dict[str, Any]]:
        async with self._http.post(path, data=form) as answer:
            payload = await answer.json()
        assert payload["status"] == "success", f"{payload.get('error')}: {form['query']}"
        return list(payload["data"]["result"])


@asynccontextmanager
async def start_prometheus(
    targets: Sequence[str], folder: Path, *, alertmanager: str | None = None, rules: Path = RULES
) -> AsyncIterator[Prometheus]:
    """Scrape and evaluate twice a second and as deployed otherwise; at the end it is gone."""
    config = yaml.safe_load((PROMETHEUS_DIR / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(rules / "*.yml")]
    (job,) = config["scrape_configs"]
    job["scrape_timeout"] = "500ms"
    job["static_configs"] = [{"targets": [urlsplit(target).netloc for target in targets]}]
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]} if alertmanager else {}
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    argv = (f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={address}")
    async with start_process(_require_program("prometheus"), *argv) as running:
        await running.wait_for_output(_PROMETHEUS_READY)
        async with aiohttp.ClientSession(f"http://{address}") as http:
            yield Prometheus(f"http://{address}", http)


@asynccontextmanager
async def start_alertmanager(webhook: str, folder: Path) -> AsyncIterator[str]:
    """Send to `webhook` at once, and as deployed otherwise; gives `host:port`."""
    config = yaml.safe_load((PROMETHEUS_DIR / "alertmanager.yml").read_text())
    for route in (config["route"], *config["route"]["routes"]):
        route |= {"group_wait": "0s", "group_interval": "1s"}
    for receiver in config["receivers"]:
        (hook,) = receiver["webhook_configs"]
        hook["url"] = webhook + urlsplit(hook["url"]).path
    file = folder / "alertmanager.yml"
    file.write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    argv = (
        f"--config.file={file}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    )
    async with start_process(_require_program("prometheus-alertmanager"), *argv) as running:
        await running.wait_for_output(_ALERTMANAGER_READY)
        yield address


def with_short_ranges(folder: Path) -> Path:
    """The deployed rules with ranges of ten seconds and hardly a wait before they fire; gives their folder."""
    folder.mkdir()
    for file in RULES.glob("*.yml"):
        rules = re.sub(r"\[\d+[mh]\]", "[10s]", file.read_text())
        (folder / file.name).write_text(re.sub(r"(?m)^( +for:) .*$", r"\1 1s", rules))
    return folder


async def run_tool(program: str, *arguments: str) -> str:
    """Run promtool or amtool to its end, which must be a success; gives what it printed."""
    async with start_process(_require_program(program), *arguments) as running:
        code = await running.wait_for_exit()
    assert code == 0, running.output()
    return running.output()


def _require_program(program: str) -> str:
    found = shutil.which(program)
    assert found, f"{program} is missing: apt-get install prometheus prometheus-alertmanager"
    return found
