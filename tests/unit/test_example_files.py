"""The examples that the documentation names can be used as they are."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from paceline.api.schemas.requests import CompareRequest
from paceline.app import Service
from paceline.batch.batch_request import BatchRequest
from paceline.batch.request_builder import RequestBuilder
from paceline.batch.validation import build_batch
from paceline.cli.io.ndjson_reader import InputLine, NdjsonReader
from paceline.config import load_config
from paceline.config.server import ServerConfig
from paceline.model import Batch, Tenant
from paceline.units import MAX_DURATION_S

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ENVIRON = {"GITHUB_TOKEN": "x", "OPENAI_API_KEY": "x"}


def batch() -> Batch:
    return Batch(items=(), deadline_s=MAX_DURATION_S)


@pytest.mark.parametrize("name", sorted(file.stem for file in EXAMPLES.glob("*.ndjson")))
async def test_every_line_is_an_item_of_an_upstream_in_the_example_configuration(name: str) -> None:
    service = Service(load_config(ROOT / f"config/examples/{name}.yaml", ENVIRON))
    preparation = RequestBuilder(service.registry, batch(), MAX_DURATION_S)
    fd = os.open(EXAMPLES / f"{name}.ndjson", os.O_RDONLY)
    source = NdjsonReader(fd)
    try:
        entries = await source.read_lines(1000)
        assert entries
        for entry in entries:
            assert isinstance(entry, InputLine), entry
            upstream, _ = preparation.build(entry.item)
            assert upstream.name == name
            assert (
                upstream.async_gate.gate.budgets.unpayable_reason(preparation.build(entry.item)[1].cost, None) is None
            )
    finally:
        source.close()
        os.close(fd)
        await service.close()


def test_the_batch_is_one() -> None:
    body = msgspec.json.decode((EXAMPLES / "batch.json").read_bytes(), type=BatchRequest)
    assert len(build_batch(body, Tenant(), ServerConfig()).items) == 4


def test_the_comparison_is_one() -> None:
    body = msgspec.json.decode((EXAMPLES / "compare.json").read_bytes(), type=CompareRequest)
    assert body.unpaced
