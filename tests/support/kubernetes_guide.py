"""docs/kubernetes.md as its reader uses it: the files it shows, the commands it gives."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tools.kubectl import BIN, ROOT

_GUIDE = ROOT / "docs" / "kubernetes.md"
UNREACHABLE_CLUSTER = "http://127.0.0.1:1"
"""Where no cluster answers: a command that gets as far as being refused was understood."""


def code_blocks(language: str) -> list[str]:
    found = re.findall(rf"(?ms)^( *)```{language}\n(.*?)^ *```$", _GUIDE.read_text())
    return [re.sub(rf"(?m)^{indent}", "", text) for indent, text in found]


def console_commands() -> list[str]:
    return [line.removeprefix("$ ") for text in code_blocks("console") for line in text.splitlines()]


def build_guide_folder(folder: Path) -> Path:
    """A folder as the reader of the guide has it: the repository, and every file that the guide shows."""
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    shutil.copytree(ROOT / "grafana", folder / "grafana", ignore=shutil.ignore_patterns("node_modules"))
    for text in code_blocks("yaml"):
        name, _, rest = text.partition("\n")
        file = folder / name.removeprefix("# ").removesuffix(", continued")
        file.parent.mkdir(exist_ok=True)
        with file.open("a") as writing:
            writing.write(rest)
    for secret in ("checkout-a", "checkout-b", "github.token"):
        (folder / secret).write_text("a-key-of-more-than-sixteen-characters\n")
    return folder


def run_in_shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Return the script with the tested programs, no cluster, and no waiting."""
    wrapped = (
        f'kubectl() {{ command kubectl --server={UNREACHABLE_CLUSTER} "$@"; }}; sleep() {{ :; }}; export -f kubectl; '
    )
    environ = {
        "PATH": f"{BIN}:/usr/bin:/bin",
        "HOME": str(folder),
        "HELM_KUBEAPISERVER": UNREACHABLE_CLUSTER,
        "LANG": "C.UTF-8",
    }
    argv = ["bash", "-c", wrapped + command.removesuffix(" &")]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, env=environ, timeout=60)
