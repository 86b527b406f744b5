"""docs/kubernetes.md: its files are rendered, its commands are run as far as they go without a cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from paceline.config import load_config
from support.kubernetes_guide import UNREACHABLE_CLUSTER, build_guide_folder, console_commands, run_in_shell
from support.rendered_chart import objects_by_kind, version, write_config_files
from tools.kubectl import check_output, parse_documents, render_chart

pytestmark = pytest.mark.deploy
OPERATORS = {"ServiceMonitor", "PrometheusRule"}
# All but the one that fetches a third party's chart from its registry.
OF_CLUSTERS = [
    command
    for command in dict.fromkeys(console_commands())
    if re.search(r"\b(kubectl|helm)\b", command) and " CHART " not in command
]


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_guide_folder(tmp_path_factory.mktemp("guide") / "paceline")


def test_the_guide_s_values_make_what_the_guide_says(guided: Path, tmp_path: Path) -> None:
    given = yaml.safe_load((guided / "values.yaml").read_text())
    made = parse_documents(render_chart(given))
    kinds = [each["kind"] for each in made]
    assert {*OPERATORS, "Deployment", "NetworkPolicy"} <= set(kinds)
    config = load_config(write_config_files(made[kinds.index("ConfigMap")], tmp_path), {})
    assert (list(config.upstreams), [key.name for key in config.server.api_keys]) == (
        ["github"],
        ["checkout-a", "checkout-b"],
    )
    private = yaml.safe_load((guided / "private.yaml").read_text())
    assert render_chart(private).count("port: 8000") == 1


def test_the_guide_s_kustomization_is_a_deployment_that_works(guided: Path, tmp_path: Path) -> None:
    made = parse_documents(check_output("kubectl", "kustomize", guided / "ours"))
    assert {each["metadata"].get("namespace") for each in made} == {"paceline"}
    assert {each["metadata"]["labels"]["release"] for each in made} == {"kube-prometheus-stack"}
    of_kind = {each["kind"]: each for each in made if not each["metadata"]["name"].endswith("-dashboards")}
    spec = of_kind["Deployment"]["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"] == f"registry.example.com/paceline:{version()}"
    assert spec["containers"][0]["volumeMounts"][-1]["name"] == spec["volumes"][-1]["name"] == "github"
    ours = load_config(write_config_files(of_kind["ConfigMap"], tmp_path / "ours"), {})
    chart = load_config(write_config_files(objects_by_kind("as it stands")["ConfigMap"], tmp_path / "chart"), {})
    assert ours.server.model_copy(update={"api_keys": ()}) == chart.server.model_copy(update={"api_keys": ()})
    assert ours.egress == chart.egress


def test_the_guide_takes_the_configuration_out_of_the_chart_as_it_is(guided: Path) -> None:
    (command,) = [each for each in console_commands() if "--show-only" in each]
    run_in_shell(command, guided)
    made = parse_documents(render_chart(yaml.safe_load((guided / "values.yaml").read_text())))
    (configmap,) = [each for each in made if "paceline.yaml" in each.get("data", {})]
    assert yaml.safe_load((guided / "paceline.yaml").read_text()) == yaml.safe_load(configmap["data"]["paceline.yaml"])


@pytest.mark.parametrize("command", OF_CLUSTERS)
def test_a_command_of_the_guide_is_understood(command: str, guided: Path) -> None:
    """Run where no cluster answers, so that each either ends well or says just that."""
    ran = run_in_shell(command, guided)
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0 or UNREACHABLE_CLUSTER.partition("//")[2] in said, said
    assert not re.search(r"unknown|Usage|invalid|not valid|no such file|required", said), said


@pytest.mark.parametrize("command", [each for each in OF_CLUSTERS if each.startswith("helm upgrade")])
def test_an_upgrade_of_the_guide_has_values_that_work(command: str, guided: Path) -> None:
    ran = run_in_shell(re.sub(r"^helm upgrade( --install)?", "helm template", command), guided)
    assert ran.returncode == 0, ran.stderr
