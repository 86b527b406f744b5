"""Scrape configuration, rules and alerts of deploy/prometheus, judged by the programs that will run them."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.paceline_server import start_server, upstream_config
from tools.prometheus import PROMETHEUS_DIR, RULES, run_tool, start_alertmanager, start_prometheus, with_short_ranges
from tools.scripted_upstream import Peer, ReceivedRequest, ScriptedUpstream, respond_with
from tools.waiting import wait_until

pytestmark = pytest.mark.deploy
ROOT = PROMETHEUS_DIR.parents[1]
CASES = sorted((PROMETHEUS_DIR / "tests").glob("*.test.yml"))


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load((RULES / "paceline-alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


async def test_prometheus_takes_the_configuration_and_the_rules_in_it() -> None:
    said = await run_tool("promtool", "check", "config", str(PROMETHEUS_DIR / "prometheus.yml"))
    assert "2 rule files found" in said


async def test_alertmanager_takes_its_configuration() -> None:
    await run_tool("amtool", "check-config", str(PROMETHEUS_DIR / "alertmanager.yml"))


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.name.partition(".")[0])
async def test_alerts_fire_and_stay_silent_as_their_cases_say(file: Path) -> None:
    await run_tool("promtool", "test", "rules", str(file))


def test_every_alert_fires_in_one_case_and_is_silent_in_another() -> None:
    found: dict[str, set[bool]] = defaultdict(set)
    for file in CASES:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for expected in case["alert_rule_test"]:
                found[expected["alertname"]].add(bool(expected["exp_alerts"]))
    assert found == {name: {True, False} for name in alerts()}


@pytest.mark.parametrize("name", alerts())
def test_every_alert_has_a_page_that_says_what_to_do(name: str) -> None:
    rule = alerts()[name]
    page = (ROOT / rule["annotations"]["runbook_url"]).read_text()
    assert f"`{name}` ({rule['labels']['severity']})" in page
    assert re.findall(r"(?m)^## (.+)$", page) == ["Meaning", "First look", "Action"]


def test_every_page_belongs_to_an_alert() -> None:
    named = {rule["annotations"]["runbook_url"] for rule in alerts().values()}
    assert {str(page.relative_to(ROOT)) for page in (ROOT / "docs/runbooks").glob("*.md")} == named


def test_the_table_of_alerts_is_complete() -> None:
    table = (ROOT / "docs/operations.md").read_text()
    rows = re.findall(r"(?m)^\| \[`(\w+)`\]\((.+?)\) \| (\w+) \|", table)
    found = {name: (f"docs/{page}", severity) for name, page, severity in rows}
    assert found == {
        name: (rule["annotations"]["runbook_url"], rule["labels"]["severity"]) for name, rule in alerts().items()
    }


def test_rules_and_pages_name_only_metrics_that_are_documented() -> None:
    documented = set(re.findall(r"`(paceline_\w+)`", (ROOT / "docs/metrics.md").read_text()))
    for file in [*RULES.glob("*.yml"), *(ROOT / "docs/runbooks").glob("*.md")]:
        for name in re.findall(r"(?<![\w:])paceline_[a-z_]+", file.read_text()):
            assert re.sub(r"_(count|sum|bucket)$", "", name) in documented, f"{file.name}: {name}"


async def test_an_outage_reaches_the_pager_and_recovery_takes_it_back(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, ScriptedUpstream() as pager:
        broken = asyncio.Event()

        async def act(request: ReceivedRequest, peer: Peer) -> None:
            await respond_with(status=503 if broken.is_set() else 200)(request, peer)

        upstream.script("*", act)
        policy = {
            "retry": {"attempts": 1},
            "breaker": {"min_calls": 5, "window": "2s", "open": "300ms", "max_open": "500ms"},
        }
        config = {"upstreams": {"api": upstream_config(upstream.url, **policy)}}
        async with (
            start_server(config, tmp_path / "paceline.yaml") as server,
            start_alertmanager(pager.url, tmp_path) as alertmanager,
            start_prometheus(
                [server.base_url], tmp_path, alertmanager=alertmanager, rules=with_short_ranges(tmp_path / "rules")
            ) as prometheus,
        ):

            async def call() -> None:
                items = [{"upstream": "api", "path": "/"}] * 5
                await server.post("/v1/batch", {"requests": items, "deadline": "1s"})
                await asyncio.sleep(0.1)

            async with asyncio.TaskGroup() as callers:
                calling = callers.create_task(_again_and_again(call))
                await wait_until(
                    lambda: _some(prometheus.query("rate(paceline_items_total[10s]) > 0")),
                    timeout_s=30,
                    what="items are scraped",
                )
                assert not await prometheus.firing()

                broken.set()
                await wait_until(lambda: _paged(pager, "firing"), timeout_s=60, what="the pager is notified")
                assert "PacelineBreakerOpen" in await prometheus.firing()

                broken.clear()
                await wait_until(lambda: _paged(pager, "resolved"), timeout_s=60, what="the pager gets the end")
                calling.cancel()


async def _again_and_again(call: Callable[[], Awaitable[None]]) -> None:
    with suppress(asyncio.CancelledError):
        while True:
            await call()


async def _some(asked: Awaitable[list[Any]]) -> bool:
    return bool(await asked)


async def _paged(pager: ScriptedUpstream, status: str) -> bool:
    """Was the breaker's alert, whole as its rule has it, sent to the pager with this status."""
    found = [
        alert
        for request in pager.requests_to("/pages")
        for alert in request.json["alerts"]
        if alert["labels"]["alertname"] == "PacelineBreakerOpen" and alert["status"] == status
    ]
    for alert in found:
        assert alert["labels"]["upstream"] == "api"
        assert alert["labels"]["severity"] == "page"
        assert alert["annotations"]["runbook_url"] == "docs/runbooks/breaker-open.md"
    return bool(found)
