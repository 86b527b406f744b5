"""The package tables of docs/architecture.md, made from the first line of each module's docstring.

python -m tools.architecture --renew docs/architecture.md
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
SOURCE = ROOT / "service" / "paceline"

_BEGIN, _END = "<!-- packages: begin -->\n", "<!-- packages: end -->\n"


def package_tables() -> str:
    """A heading, a sentence and a table of files for each package, from the entry points down."""
    return "\n".join("\n".join(_package_section(folder)) + "\n" for folder in _packages())


def renew(page: str) -> str:
    """The page with its package tables as the code has them now."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{package_tables()}\n{_END}{after}"


def first_line(module: Path) -> str:
    """The first paragraph of a module's docstring as one line, without its full stop."""
    text = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split()).removesuffix(".")


def _packages() -> Iterator[Path]:
    for top in _ORDER:
        folder = SOURCE / top
        yield folder
        yield from sorted(each.parent for each in folder.glob("*/__init__.py"))


def _package_section(folder: Path) -> Iterator[str]:
    yield f"### {folder.relative_to(SOURCE)}/\n"
    yield f"{first_line(folder / '__init__.py')}.\n"
    yield "| file | holds |"
    yield "|---|---|"
    for module in sorted(folder.glob("*.py")):
        if module.name != "__init__.py":
            yield f"| `{module.name}` | {first_line(module).replace('|', chr(92) + '|')} |"


_ORDER = (
    "cli",
    "demo",
    "api",
    "batch",
    "upstream",
    "admission",
    "resilience",
    "rate",
    "transport",
    "telemetry",
    "config",
    "model",
)
"""Top-level packages, from the entry points down: the order of the import rules."""


if __name__ == "__main__":
    page = Path(sys.argv[2])
    page.write_text(renew(page.read_text("utf-8")), encoding="utf-8")
