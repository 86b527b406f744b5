"""The chart, by Helm itself: what it makes of values that work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from paceline.config.replica_share import share_for_replica
from support.rendered_chart import (
    CASES,
    config_of,
    container,
    objects_by_kind,
    pod,
    render_case,
    values,
    version,
    write_config_files,
)
from tools.kubectl import CHART, ROOT, check_output, render_chart
from tools.prometheus import RULES, run_tool

pytestmark = pytest.mark.deploy
EVERY_CASE = pytest.mark.parametrize("case", CASES)
GROUPS = [
    group
    for name in ("paceline-recording.yml", "paceline-alerts.yml")
    for group in yaml.safe_load((RULES / name).read_text())["groups"]
]
MIB = 1 << 20


@EVERY_CASE
def test_lint_finds_nothing_to_warn_of(case: str) -> None:
    said = check_output("helm", "lint", "--strict", CHART, "--values", "-", stdin=yaml.safe_dump(CASES[case]))
    assert "1 chart(s) linted, 0 chart(s) failed" in said


@EVERY_CASE
def test_paceline_takes_the_configuration_it_is_given(case: str, tmp_path: Path) -> None:
    file = write_config_files(objects_by_kind(case)["ConfigMap"], tmp_path)
    argv = [sys.executable, "-m", "paceline", "check-config", file]
    ran = subprocess.run(argv, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"listens on 0.0.0.0:{CASES[case].get('port', 8080)}" in ran.stdout


@EVERY_CASE
def test_only_what_is_declared_may_be_called_and_only_with_a_key(case: str, tmp_path: Path) -> None:
    config = config_of(case, tmp_path)
    assert config.egress.mode == "declared"
    assert config.server.api_keys
    assert "insecure" not in render_case(case).lower()
    assert "Secret\n" not in [line.removeprefix("kind: ") + "\n" for line in render_case(case).splitlines()]


@EVERY_CASE
def test_values_reach_the_configuration_as_they_were_written(case: str, tmp_path: Path) -> None:
    data = yaml.safe_load(objects_by_kind(case)["ConfigMap"]["data"]["paceline.yaml"])
    given = CASES[case].get("config", {}).get("upstreams", {})
    for name, upstream in given.items():
        if upstream is None:
            assert name not in data["upstreams"]
        else:
            assert data["upstreams"][name] | upstream == data["upstreams"][name]


@EVERY_CASE
def test_the_pod_is_restricted(case: str) -> None:
    restricted = {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert restricted.items() <= pod(case)["securityContext"].items()
    assert container(case)["securityContext"] == {
        **restricted,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all("emptyDir" in each or "configMap" in each or "secret" in each for each in pod(case)["volumes"])
    assert pod(case)["automountServiceAccountToken"] is False
    assert objects_by_kind(case)["ServiceAccount"]["automountServiceAccountToken"] is False


@EVERY_CASE
def test_a_service_named_paceline_cannot_set_its_port(case: str) -> None:
    assert pod(case)["enableServiceLinks"] is False


@EVERY_CASE
def test_probes_ask_the_port_that_load_cannot_starve(case: str, tmp_path: Path) -> None:
    config = config_of(case, tmp_path)
    ports = {each["name"]: each["containerPort"] for each in container(case)["ports"]}
    assert ports == {"http": config.server.port, "metrics": config.server.admin_port}
    probes = {kind: container(case)[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/healthz",
        "readiness": "/readyz",
        "liveness": "/healthz",
    }
    assert {probe["port"] for probe in probes.values()} == {"metrics"}
    assert [each["targetPort"] for each in objects_by_kind(case)["Service"]["spec"]["ports"]] == ["http", "metrics"]


@EVERY_CASE
def test_a_pod_has_ended_before_it_is_killed(case: str, tmp_path: Path) -> None:
    server = config_of(case, tmp_path).server
    sleeps = container(case).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    assert sleeps[0] == "sleep"
    assert pod(case)["terminationGracePeriodSeconds"] > int(sleeps[1]) + server.pre_stop + server.drain + 7


@EVERY_CASE
def test_limits_do_not_multiply_at_any_moment_of_a_rollout(case: str, tmp_path: Path) -> None:
    spec = objects_by_kind(case)["Deployment"]["spec"]
    (shares,) = [int(each["value"]) for each in container(case)["env"] if each["name"] == "PACELINE_REPLICAS"]
    most = spec["replicas"]
    if spec["replicas"] == 1:
        assert spec["strategy"] == {"type": "Recreate"}
    else:
        assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
        assert spec["minReadySeconds"] >= pod(case)["terminationGracePeriodSeconds"]
        assert spec["progressDeadlineSeconds"] > spec["minReadySeconds"]
        most += 1  # the one that drains while all others serve
    whole = config_of(case, tmp_path)
    share = share_for_replica(whole, shares)
    for name, upstream in whole.upstreams.items():
        for window, part in zip(upstream.rate, share.upstreams[name].rate, strict=True):
            assert most * part.limit / part.per <= window.limit / window.per * (1 + 1e-9)
        if upstream.concurrency.limit:
            assert most * (share.upstreams[name].concurrency.limit or 0) <= upstream.concurrency.limit


def test_the_memory_limit_covers_what_the_configuration_can_need(tmp_path: Path) -> None:
    config = config_of("as it stands", tmp_path)
    server, (upstream,) = config.server, config.upstreams.values()
    batches = -(-server.max_in_flight_items // server.max_items)
    bodies = server.max_body * max(4, batches)
    answers = server.max_batch_response * batches
    sends = upstream.concurrency.limit or 0
    in_hand = sends * upstream.max_response + 16 * MIB
    items = server.max_in_flight_items
    json_answers = 100 * MIB + 6 * bodies + 24 * 1024 * items + 1.5 * answers + 3 * in_hand
    streams = 6 * in_hand
    thousand_connections = 1000 * 128 * 1024
    resources = container("as it stands")["resources"]
    assert resources["limits"]["memory"] == resources["requests"]["memory"] == "768Mi"
    assert json_answers + streams + thousand_connections <= 768 * MIB


@EVERY_CASE
def test_one_pod_may_always_be_evicted(case: str) -> None:
    if CASES[case].get("podDisruptionBudget", {}).get("enabled", True):
        spec = objects_by_kind(case)["PodDisruptionBudget"]["spec"]
        assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    else:
        assert "PodDisruptionBudget" not in objects_by_kind(case)


@EVERY_CASE
def test_everything_is_found_by_the_labels_of_the_pods(case: str) -> None:
    made = objects_by_kind(case)
    labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    selectors = [made["Service"]["spec"]["selector"], made["Deployment"]["spec"]["selector"]["matchLabels"]]
    selectors += [each["labelSelector"]["matchLabels"] for each in pod(case)["topologySpreadConstraints"]]
    if "PodDisruptionBudget" in made:
        selectors.append(made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"])
    if "NetworkPolicy" in made:
        selectors.append(made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"])
    assert all(selector.items() <= labels for selector in selectors)
    if "ServiceMonitor" in made:
        monitor = made["ServiceMonitor"]["spec"]
        found = made["Service"]["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= found.items()
        assert found[monitor["jobLabel"]] == "paceline"


def test_another_configuration_is_another_pod_and_nothing_else_is() -> None:
    def checksum(given: dict[str, Any]) -> str:
        _, _, line = render_chart(given).partition("checksum/config: ")
        return line.split()[0]

    assert checksum({}) == checksum({"podLabels": {"a": "b"}, "replicas": 3})
    assert checksum({}) != checksum({"config": {"server": {"max_items": 400}}})
    assert checksum({}) != checksum({"apiKeys": {"callers": [{"name": "app", "weight": 2}]}})


def test_secrets_are_mounted_as_whole_folders_so_that_they_are_renewed() -> None:
    mounts = {each["mountPath"]: each for each in container("private upstreams")["volumeMounts"]}
    assert set(mounts) == {
        "/etc/paceline/config",
        "/etc/paceline/keys",
        "/etc/paceline/credentials/orders",
        "/etc/paceline/credentials/internal-ca",
        "/tmp",
    }
    assert not any("subPath" in each for each in mounts.values())
    secrets = [each["secret"]["secretName"] for each in pod("private upstreams")["volumes"] if "secret" in each]
    assert secrets == ["paceline-api-keys", "orders", "internal-ca"]


async def test_the_rule_holds_what_prometheus_is_given_without_kubernetes(tmp_path: Path) -> None:
    made = render_chart({"monitoring": {"prometheusRule": {"enabled": True}}})
    (rule,) = [each for each in yaml.safe_load_all(made) if each and each["kind"] == "PrometheusRule"]
    assert rule["spec"] == {"groups": GROUPS}
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(rule["spec"]))
    assert "SUCCESS" in await run_tool("promtool", "check", "rules", str(file))


def test_runbooks_are_found_where_they_are_published() -> None:
    groups = objects_by_kind("monitored")["PrometheusRule"]["spec"]["groups"]
    urls = {rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"] if "alert" in rule}
    paths = {url.removeprefix("https://wiki.example.com/paceline/") for url in urls}
    assert urls.isdisjoint(paths)
    assert all((ROOT / path).is_file() for path in paths)


def test_the_dashboards_are_those_of_grafana_s_folder() -> None:
    made = objects_by_kind("monitored")["Dashboards"]
    files = {file.name: json.loads(file.read_text()) for file in (ROOT / "grafana/dashboards").glob("*.json")}
    assert {name: json.loads(text) for name, text in made["data"].items()} == files
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version(), version())
    assert container("as it stands")["image"] == f"paceline:{version()}"


def test_every_value_has_a_comment_a_description_and_a_line_in_the_readme() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    readme = (CHART / "README.md").read_text()
    for path, described in _described(schema, values()):
        assert described.get("description"), path
        assert f"| `{path}`" in readme or described.get("properties"), path
        assert described.get("additionalProperties") is False or not described.get("properties"), path
    lines = (CHART / "values.yaml").read_text().splitlines()
    for path, key in _keys(schema, yaml.compose("\n".join(lines))):
        assert lines[key.start_mark.line - 1].strip().startswith("#"), path


def _described(schema: dict[str, Any], given: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in given.items():
        described = schema["properties"][name]
        yield prefix + name, described
        if isinstance(value, dict) and "properties" in described and name != "config":
            yield from _described(described, value, f"{prefix}{name}.")


def _keys(schema: dict[str, Any], section: yaml.Node, prefix: str = "") -> Iterator[tuple[str, yaml.Node]]:
    """Every value that has no values of its own, where values.yaml has it."""
    for key, value in section.value:
        described = schema["properties"][key.value]
        if described.get("properties") and key.value != "config":
            yield from _keys(described, value, f"{prefix}{key.value}.")
        else:
            yield prefix + key.value, key


def test_the_notes_say_how_to_reach_it_with_which_key() -> None:
    notes = check_output("helm", "install", "shop", CHART, "--dry-run=client", "--namespace", "apis").partition(
        "NOTES:"
    )[2]
    assert "http://shop-paceline.apis.svc:8080" in notes
    assert "kubectl get secret paceline-api-keys -n apis" in notes
    assert '{{index .data "app" | base64decode}}' in notes
