"""The examples that the documentation names can be used as they are."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from paceline.api.checks import batch_of
from paceline.api.schemas import BatchBody, CompareBody
from paceline.app import Service
from paceline.batch.prepare import Preparation
from paceline.cli.source import Entry, Source
from paceline.config import load
from paceline.config.server import Server
from paceline.model import Batch, Tenant
from paceline.units import LONGEST_S

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ENVIRON = {"GITHUB_TOKEN": "x", "OPENAI_API_KEY": "x"}


def batch() -> Batch:
    return Batch(items=(), deadline_s=LONGEST_S)


@pytest.mark.parametrize("name", sorted(file.stem for file in EXAMPLES.glob("*.ndjson")))
async def test_every_line_is_an_item_of_an_upstream_in_the_example_configuration(name: str) -> None:
    service = Service(load(ROOT / f"config/examples/{name}.yaml", ENVIRON))
    preparation = Preparation(service.registry, batch(), LONGEST_S)
    fd = os.open(EXAMPLES / f"{name}.ndjson", os.O_RDONLY)
    source = Source(fd)
    try:
        entries = await source.take(1000)
        assert entries
        for entry in entries:
            assert isinstance(entry, Entry), entry
            upstream, _ = preparation.request(entry.item)
            assert upstream.name == name
            assert upstream.admitter.gate.budgets.refusal(preparation.request(entry.item)[1].cost, None) is None
    finally:
        source.close()
        os.close(fd)
        await service.close()


def test_the_batch_is_one() -> None:
    body = msgspec.json.decode((EXAMPLES / "batch.json").read_bytes(), type=BatchBody)
    assert len(batch_of(body, Tenant(), Server()).items) == 4


def test_the_comparison_is_one() -> None:
    body = msgspec.json.decode((EXAMPLES / "compare.json").read_bytes(), type=CompareBody)
    assert body.unpaced
