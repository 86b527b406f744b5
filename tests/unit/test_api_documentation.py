"""docs/api.md names every path, every field and every code there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from paceline.api import errors as api_errors
from paceline.api.schemas.openapi import document
from paceline.api.schemas.requests import CompareRequest
from paceline.batch.batch_request import BatchRequest
from paceline.config import Config
from paceline.errors import PacelineError
from paceline.model import Defaults, Item

TEXT = (Path(__file__).parents[2] / "docs/api.md").read_text()
WORDS = set(re.findall(r"[\w/{}]+", TEXT))


def leaves(root: type) -> list[Any]:
    below = root.__subclasses__()
    return [leaf for each in below for leaf in leaves(each)] if below else [root]


def test_every_path_is_documented():
    paths = list(document(Config())["paths"])
    assert len(paths) >= 12
    assert [path for path in paths if path not in WORDS] == []


def test_every_code_of_an_item_is_documented():
    codes = {leaf.code for leaf in leaves(PacelineError) if hasattr(leaf, "code")}
    assert len(codes) > 12
    assert [code for code in codes if f"`{code}`" not in TEXT] == []


def test_every_refusal_is_documented_with_its_status():
    for leaf in leaves(api_errors.ApiError):
        if leaf is not api_errors.ClientDisconnected:
            assert re.search(rf"\| {leaf.status} \| .*`{leaf.code}`", TEXT), leaf


def test_every_field_of_a_body_is_documented():
    for body in (BatchRequest, Item, Defaults, CompareRequest):
        for field in msgspec.structs.fields(body):
            assert f"`{field.name}`" in TEXT, (body, field.name)
