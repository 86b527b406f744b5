"""Write what is made from something else: the chart's copies of rules and dashboards, its table of values, and
deploy/kubernetes.

With `--check` write nothing, and exit 1 naming the files that are not what they should be. Needs .venv-deploy.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tools.kubectl import CHART, ROOT, render_chart

MANIFESTS_DIR = ROOT / "deploy" / "kubernetes"
COPIED_DIRS = {
    "rules": ROOT / "deploy" / "prometheus" / "rules",
    "dashboards": ROOT / "grafana" / "dashboards",
}
# Those without Helm say the namespace to kubectl, and nothing here is Helm's any more.
_HELM_ONLY_LINES = re.compile(r"(?m)^ *(namespace: default|helm\.sh/chart: .*|app\.kubernetes\.io/managed-by: Helm)\n")
_OPERATOR_KINDS = {"ServiceMonitor", "PrometheusRule"}
_MONITORING_VALUES = {"monitoring": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}}


def render_chart_copies() -> dict[Path, str]:
    """The files that the chart cannot reach where they are, by where it has them."""
    return {
        CHART / "files" / folder / file.name: file.read_text()
        for folder, source in COPIED_DIRS.items()
        for file in sorted(source.iterdir())
    }


def render_chart_readme() -> dict[Path, str]:
    """The chart's README with the table of its values in the place of the old one."""
    file = CHART / "README.md"
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in iter_values(schema, defaults)]
    head, heading, _ = file.read_text().partition("## Values\n")
    return {file: f"{head}{heading}\n" + "\n".join(["| value | default | meaning |", "|---|---|---|", *rows]) + "\n"}


def iter_values(schema: dict[str, Any], defaults: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Name, default and meaning of every value; of a list of objects also what each of those has."""
    for name, described in schema["properties"].items():
        if name in ("global", "config") and not prefix:
            if name == "config":
                yield name, "an example", described["description"]
            continue
        if described["description"].startswith("Refused"):
            continue
        default = defaults.get(name) if isinstance(defaults, dict) else None
        item_properties = described.get("items", {}).get("properties")
        if "properties" in described and "podSelector" not in described["properties"]:
            yield from iter_values(described, default, f"{prefix}{name}.")
            continue
        yield f"{prefix}{name}", "" if default is None else f"`{json.dumps(default)}`", described["description"]
        if item_properties and "podSelector" not in item_properties:
            yield from iter_values(described["items"], None, f"{prefix}{name}[].")


def render_manifests() -> dict[Path, str]:
    """One file for each object that the chart makes of its own values."""
    rendered = {}
    for document in re.split(r"(?m)^---\n# Source: .*\n", render_chart(_MONITORING_VALUES)):
        kind = re.search(r"(?m)^kind: (\w+)$", document)
        if kind:
            folder = MANIFESTS_DIR / "monitoring" if kind[1] in _OPERATOR_KINDS else MANIFESTS_DIR
            rendered[folder / f"{kind[1].lower()}.yaml"] = _HELM_ONLY_LINES.sub("", document).strip() + "\n"
    return rendered


def main() -> None:
    renderings = (render_chart_copies, render_chart_readme, render_manifests)
    if sys.argv[1:] == ["--check"]:
        rendered = {file: text for render in renderings for file, text in render().items()}
        stale = {file for file, text in rendered.items() if not file.exists() or file.read_text() != text}
        existing = {*(CHART / "files").rglob("*.*"), *MANIFESTS_DIR.rglob("*.yaml")}
        stale |= {file for file in existing if file.name != "kustomization.yaml"} - rendered.keys()
        sys.exit(f"stale, run make manifests: {', '.join(sorted(file.name for file in stale))}" if stale else 0)
    for render in renderings:  # the last reads what the first writes
        for file, text in render().items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)


if __name__ == "__main__":
    main()
