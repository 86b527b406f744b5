"""Write what is made from something else: the chart's copies of rules and dashboards, and deploy/kubernetes.

With `--check` write nothing, and exit 1 naming the files that are not what they should be. Needs .venv-deploy.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from support.kubectl import CHART, ROOT, template

PLAIN = ROOT / "deploy" / "kubernetes"
COPIES = {
    "rules": ROOT / "deploy" / "prometheus" / "rules",
    "dashboards": ROOT / "grafana" / "dashboards",
}
# Those without Helm say the namespace to kubectl, and nothing here is Helm's any more.
_OF_HELM = re.compile(r"(?m)^ *(namespace: default|helm\.sh/chart: .*|app\.kubernetes\.io/managed-by: Helm)\n")
_OPERATORS = {"ServiceMonitor", "PrometheusRule"}
_MONITORED = {"monitoring": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}}


def copies() -> dict[Path, str]:
    """The files that the chart cannot reach where they are, by where it has them."""
    return {
        CHART / "files" / folder / file.name: file.read_text()
        for folder, source in COPIES.items()
        for file in sorted(source.iterdir())
    }


def manifests() -> dict[Path, str]:
    """One file for each object that the chart makes of its own values."""
    made = {}
    for document in re.split(r"(?m)^---\n# Source: .*\n", template(_MONITORED)):
        kind = re.search(r"(?m)^kind: (\w+)$", document)
        if kind:
            folder = PLAIN / "monitoring" if kind[1] in _OPERATORS else PLAIN
            made[folder / f"{kind[1].lower()}.yaml"] = _OF_HELM.sub("", document).strip() + "\n"
    return made


def main() -> None:
    if sys.argv[1:] == ["--check"]:
        stale = {file for file, text in copies().items() if not file.exists() or file.read_text() != text}
        stale |= set((CHART / "files").rglob("*.*")) - copies().keys()
        made = manifests()
        stale |= {file for file, text in made.items() if not file.exists() or file.read_text() != text}
        stale |= {file for file in PLAIN.rglob("*.yaml") if file.name != "kustomization.yaml"} - made.keys()
        sys.exit(f"stale, run make manifests: {', '.join(sorted(file.name for file in stale))}" if stale else 0)
    for render in (copies, manifests):  # the second reads what the first writes
        for file, text in render().items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)


if __name__ == "__main__":
    main()
