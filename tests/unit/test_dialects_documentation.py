"""docs/dialects.md names every dialect and every header it reads, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paceline.rate.dialects import AUTO, DIALECT_NAMES
from paceline.rate.dialects.vendors import ALL_DIALECTS
from paceline.retry_after import RETRY_AFTER_FIELDS

PAGE = (Path(__file__).parents[2] / "docs/dialects.md").read_text()
TABLE = PAGE.partition("|---|---|---|")[2]
ROWS = {cells[0].strip("` "): cells[1] for cells in re.findall(r"^\| (`\w+`) \| (.*?) \|", TABLE, re.MULTILINE)}


def test_every_dialect_has_its_row_and_no_other():
    assert sorted(ROWS) == sorted(DIALECT_NAMES)
    assert DIALECT_NAMES[0] == AUTO
    assert len(set(DIALECT_NAMES)) == len(DIALECT_NAMES)


@pytest.mark.parametrize("dialect", ALL_DIALECTS, ids=lambda dialect: dialect.name)
def test_every_header_read_is_named(dialect):
    assert set(re.findall(r"`([a-z0-9-]+)`", ROWS[dialect.name])) == dialect.field_names()


def test_every_wait_and_every_sign_is_named():
    signs = {name for dialect in ALL_DIALECTS for name in dialect.signature_fields} | RETRY_AFTER_FIELDS
    assert not [name for name in sorted(signs) if f"`{name}`" not in PAGE]
