"""What goes to a cluster, judged by the programs that judge manifests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from paceline.settings import Settings
from support.kubernetes_guide import build_guide_folder
from support.rendered_chart import CASES, objects_by_kind, render_case, version
from tools.free_port import free_port
from tools.kubectl import CHART, ROOT, check_output, parse_documents, run_program
from tools.paceline_server import start_server, upstream_config

pytestmark = pytest.mark.deploy
PLAIN = ROOT / "deploy" / "kubernetes"
OPERATORS = {"ServiceMonitor", "PrometheusRule"}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every object of every case, of deploy/kubernetes and of the guide's kustomization."""
    folder = tmp_path_factory.mktemp("everything")
    texts = {case.replace(" ", "-"): render_case(case) for case in CASES}
    texts["plain"] = (
        check_output("kubectl", "kustomize", PLAIN)
        + "---\n"
        + check_output("kubectl", "kustomize", PLAIN / "monitoring")
    )
    texts["ours"] = check_output("kubectl", "kustomize", build_guide_folder(folder.with_name("guided")) / "ours")
    for name, text in texts.items():
        made = parse_documents(text)
        for each in made:
            if each["metadata"]["name"].endswith("-dashboards"):
                each["data"] = dict.fromkeys(each["data"], "{}")  # half a megabyte that nothing here looks at
        (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(each for each in made if each["kind"] not in OPERATORS))
        if operated := [each for each in made if each["kind"] in OPERATORS]:
            (folder / f"{name}.operated").write_text(yaml.safe_dump_all(operated))
    return folder


def test_what_is_generated_is_fresh() -> None:
    argv = [sys.executable, "deploy/helm/render.py", "--check"]
    environ = os.environ | {"PYTHONPATH": "."}
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, env=environ)
    assert ran.returncode == 0, ran.stderr


def test_without_helm_it_is_what_the_chart_makes() -> None:
    plain = {each["kind"]: each for each in parse_documents(check_output("kubectl", "kustomize", PLAIN))}
    made = objects_by_kind("as it stands")
    assert plain.keys() == made.keys()
    assert "Helm" not in json.dumps(plain)
    for kind, each in plain.items():
        assert "namespace" not in each["metadata"]
        assert each.get("spec") == made[kind].get("spec")
        assert each.get("data") == made[kind].get("data")


def test_a_cluster_without_the_operator_is_asked_for_nothing_it_does_not_know() -> None:
    kinds = {each["kind"] for each in parse_documents(check_output("kubectl", "kustomize", PLAIN))}
    monitored = {each["kind"] for each in parse_documents(check_output("kubectl", "kustomize", PLAIN / "monitoring"))}
    assert not kinds & OPERATORS
    assert monitored == OPERATORS | {"ConfigMap"}


def test_the_image_can_be_named_in_one_place() -> None:
    (image,) = yaml.safe_load((PLAIN / "kustomization.yaml").read_text())["images"]
    assert image == {"name": "paceline", "newName": "paceline", "newTag": version()}


def test_grafana_s_kustomization_gives_the_sidecar_what_the_chart_gives_it() -> None:
    (made,) = parse_documents(check_output("kubectl", "kustomize", ROOT / "grafana"))
    chart = objects_by_kind("monitored")["Dashboards"]
    assert {name: json.loads(text) for name, text in made["data"].items()} == {
        name: json.loads(text) for name, text in chart["data"].items()
    }
    assert made["metadata"]["labels"].items() <= chart["metadata"]["labels"].items()
    assert made["metadata"]["annotations"] == chart["metadata"]["annotations"]
    assert len(json.dumps(made)) < 250_000  # `kubectl apply` keeps a copy in an annotation of 256 KiB at most


@cache
def _newest_versions() -> list[str]:
    listed = "import os, kubernetes_validate as it; print(*os.listdir(it.__path__[0] + '/kubernetes-json-schema'))"
    found = re.findall(r"v(\d+)\.(\d+)\.0-local-strict", check_output("python", "-c", listed))
    return [f"{major}.{minor}" for major, minor in sorted((int(a), int(b)) for a, b in found)[-3:]]


@pytest.mark.parametrize("age", [-1, -2, -3], ids=["newest", "one before", "two before"])
def test_kubernetes_takes_every_object(everything: Path, age: int) -> None:
    files = sorted(everything.glob("*.yaml"))
    said = check_output("kubernetes-validate", "--strict", "-k", _newest_versions()[age], *files)
    count = sum(len(parse_documents(file.read_text())) for file in files)
    assert said.count(f"against version {_newest_versions()[age]}") == count
    assert "WARN" not in said


def test_kubernetes_would_not_take_a_word_it_does_not_know(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(objects_by_kind("as it stands")["Service"] | {"spek": {}}))
    assert run_program("kubernetes-validate", "--strict", "-k", _newest_versions()[-1], file).returncode != 0


def test_the_operator_takes_its_kinds(everything: Path, tmp_path: Path) -> None:
    made = [each for file in sorted(everything.glob("*.operated")) for each in parse_documents(file.read_text())]
    wrong = [each | {"spec": each["spec"] | {"jobLabels": "a", "group": []}} for each in made[:2]]
    whole = tmp_path / "operated.yaml"
    whole.write_text(yaml.safe_dump_all(made + wrong))
    said = check_output("python", "tests/support/operator_kinds.py", whole).splitlines()
    assert [line.partition(": ")[2] for line in said] == ["known"] * 6 + ["has unknown words"] * 2


def test_checkov_finds_nothing_that_has_no_reason(tmp_path: Path) -> None:
    digest = {"digest": "sha256:" + "0" * 64}
    for name in ("as it stands", "three replicas", "private upstreams", "many callers"):
        made = check_output(
            *("helm", "template", "paceline", CHART, "--namespace", "paceline", "--values", "-"),
            stdin=yaml.safe_dump({**CASES[name], "image": digest}),
        )
        (tmp_path / f"{name.replace(' ', '-')}.yaml").write_text(made)
    ran = run_program(
        "checkov", "--skip-download", "--config-file", ROOT / "deploy/checkov.yaml", "-d", tmp_path, "-o", "json"
    )
    assert ran.returncode == 0, ran.stdout
    summary = json.loads(ran.stdout)["summary"]
    assert (summary["failed"], summary["skipped"], summary["parsing_errors"]) == (0, 0, 0)
    assert summary["passed"] > 300


def test_every_check_left_out_has_a_reason_beside_it() -> None:
    lines = (ROOT / "deploy/checkov.yaml").read_text().splitlines()
    left_out = [at for at, line in enumerate(lines) if line.startswith("  - CKV")]
    assert len(left_out) == 2
    assert all(lines[at - 1].startswith("  #") for at in left_out)


def test_every_variable_of_the_pod_is_a_setting() -> None:
    (container,) = objects_by_kind("as it stands")["Deployment"]["spec"]["template"]["spec"]["containers"]
    names = {each["name"].removeprefix("PACELINE_").lower() for each in container["env"]}
    assert names <= set(Settings.model_fields)


async def test_a_secret_that_kubernetes_renews_is_read_on_sighup(tmp_path: Path) -> None:
    """Kubernetes puts a new folder next to the old one and switches a link to it."""
    keys = tmp_path / "keys"
    keys.mkdir()
    _mount(keys, "first", "the-first-key-of-this-caller")
    key = {"name": "app", "key": f"${{file:{keys}/app}}"}
    config = {"server": {"api_keys": [key]}, "upstreams": {"none": upstream_config(f"http://127.0.0.1:{free_port()}")}}
    async with start_server(config, tmp_path / "paceline.yaml") as server:

        async def status(secret: str) -> int:
            return (await server.get("/v1/upstreams", headers={"authorization": f"Bearer {secret}"}))[0]

        assert (await status("the-first-key-of-this-caller"), await status("the-second-key-of-this-caller")) == (
            200,
            401,
        )
        _mount(keys, "second", "the-second-key-of-this-caller")
        assert await status("the-first-key-of-this-caller") == 200
        server.process.send_signal(1)
        await server.process.wait_for_output(re.compile("configuration reloaded"))
        assert (await status("the-first-key-of-this-caller"), await status("the-second-key-of-this-caller")) == (
            401,
            200,
        )


def _mount(folder: Path, revision: str, key: str) -> None:
    made = folder / f"..{revision}"
    made.mkdir()
    (made / "app").write_text(key + "\n")
    turned = folder / "..data_tmp"
    turned.symlink_to(made.name)
    turned.rename(folder / "..data")
    if not (folder / "app").is_symlink():
        (folder / "app").symlink_to("..data/app")
