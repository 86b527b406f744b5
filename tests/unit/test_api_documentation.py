"""docs/api.md names every field and every code there is, and each code says what to do about it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paceline.api.errors import ApiError, ClientDisconnected
from paceline.api.problem_code import ProblemCode
from paceline.api.schemas.components import msgspec_components
from paceline.api.schemas.requests import CompareRequest
from paceline.batch.batch_request import BatchRequest
from paceline.batch.field_types import DEFAULT_DEADLINE_S, MIN_WINDOW_S
from paceline.cli.docs_tables.codes import error_code_table, problem_code_table
from paceline.errors import PacelineError
from paceline.model import Defaults, ErrorCode, Item
from paceline.upstream.pipeline import DEFAULT_CONCURRENCY

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/api.md").read_text()
DECLARING_FILES = ("error_code.py", "problem_code.py", "codes.py")


def leaves(root: type) -> list[Any]:
    below = root.__subclasses__()
    return [leaf for each in below for leaf in leaves(each)] if below else [root]


def source_nodes() -> Iterator[ast.AST]:
    for file in (ROOT / "service/paceline").rglob("*.py"):
        if file.name not in DECLARING_FILES:
            yield from ast.walk(ast.parse(file.read_text()))


@pytest.mark.parametrize("table", [error_code_table(), problem_code_table()], ids=["items", "problems"])
def test_the_tables_of_codes_are_those_of_the_code(table: str):
    assert table in TEXT, "docs/api.md is stale; run `make schema`"


@pytest.mark.parametrize("codes", [ErrorCode, ProblemCode])
def test_every_code_says_what_it_means_and_what_to_do(codes: type[ErrorCode] | type[ProblemCode]):
    assert len(codes) > 15
    for code in codes:
        for words in (code.meaning, code.fix):
            assert re.fullmatch(r"[A-Z`][^|\n]{10,160}\.", words), (code, words)


@pytest.mark.parametrize("codes", [ErrorCode, ProblemCode])
def test_every_code_that_is_listed_is_used(codes: type[ErrorCode] | type[ProblemCode]):
    used = {
        node.attr
        for node in source_nodes()
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == codes.__name__
    }
    assert used == {code.name for code in codes}


def test_every_error_has_a_code_that_is_listed():
    for leaf in leaves(PacelineError):
        assert isinstance(leaf.code, ErrorCode), leaf
    for leaf in leaves(ApiError):
        assert leaf is ClientDisconnected or isinstance(leaf.code, ProblemCode), leaf


def test_no_code_is_written_as_text():
    """A code that is no member of the two sets would have no entry in the tables."""
    for node in source_nodes():
        values: list[ast.AST | None] = []
        if isinstance(node, ast.Call):
            values += [each.value for each in node.keywords if each.arg == "code"]
            if isinstance(node.func, ast.Name) and node.func.id == "Failure":
                values += node.args[:1]
        elif isinstance(node, ast.Assign) and any(isinstance(at, ast.Name) and at.id == "code" for at in node.targets):
            values.append(node.value)
        texts = [each.value for each in values if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        assert texts == []


def test_every_field_of_a_body_is_documented():
    for body in (BatchRequest, Item, Defaults, CompareRequest):
        for field in msgspec.structs.fields(body):
            assert f"`{field.name}`" in TEXT, (body, field.name)


def test_the_numbers_of_the_descriptions_are_those_of_the_code():
    schemas = msgspec_components(max_items=1000)
    batch = schemas["BatchRequest"]["properties"]
    assert f"Default: {DEFAULT_CONCURRENCY};" in batch["max_concurrency"]["description"]
    assert (
        f"Default: {DEFAULT_CONCURRENCY}." in schemas["CompareRequest"]["properties"]["max_concurrency"]["description"]
    )
    for body in ("BatchRequest", "FetchRequest"):
        assert f"Default: {DEFAULT_DEADLINE_S:g}s" in schemas[body]["properties"]["deadline"]["description"]
    assert f"at least {MIN_WINDOW_S * 1000:g}ms" in schemas["RateSpec"]["properties"]["per"]["description"]
