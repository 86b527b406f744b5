"""docs/dialects.md names every dialect and every header it reads, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paceline.rate.dialects import AUTO, DIALECTS
from paceline.rate.dialects.reading import WAIT_NAMES
from paceline.rate.dialects.vendors import ALL

PAGE = (Path(__file__).parents[2] / "docs/dialects.md").read_text()
TABLE = PAGE.partition("|---|---|---|")[2]
ROWS = {cells[0].strip("` "): cells[1] for cells in re.findall(r"^\| (`\w+`) \| (.*?) \|", TABLE, re.MULTILINE)}


def test_every_dialect_has_its_row_and_no_other():
    assert sorted(ROWS) == sorted(DIALECTS)
    assert DIALECTS[0] == AUTO
    assert len(set(DIALECTS)) == len(DIALECTS)


@pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)
def test_every_header_read_is_named(dialect):
    assert set(re.findall(r"`([a-z0-9-]+)`", ROWS[dialect.name])) == dialect.names()


def test_every_wait_and_every_sign_is_named():
    signs = {name for dialect in ALL for name in dialect.signs} | WAIT_NAMES
    assert not [name for name in sorted(signs) if f"`{name}`" not in PAGE]
