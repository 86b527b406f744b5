"""docs/architecture.md: its package tables are the code's, and every path that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.architecture import PAGE, ROOT, SOURCE, first_line, renew

PATHS = sorted(set(re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|md))`", PAGE.read_text("utf-8"))))


def test_the_package_tables_are_fresh() -> None:
    page = PAGE.read_text("utf-8")
    assert renew(page) == page, "run `make architecture`"


@pytest.mark.parametrize("path", PATHS)
def test_a_path_on_the_page_exists(path: str) -> None:
    assert (SOURCE / path).is_file() or (ROOT / path).is_file()


@pytest.mark.parametrize("module", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_module_says_in_its_first_line_what_it_holds(module: Path) -> None:
    assert 10 <= len(first_line(module)) <= 160
