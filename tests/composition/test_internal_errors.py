"""A fault of Paceline's own costs the item that met it, and nothing else."""

from __future__ import annotations

import logging

import pytest

from paceline.model import Batch, Request, Response
from support.in_memory_upstream import InMemoryUpstream, in_memory_service, is_idle, items, outcome_codes, run_batch
from support.virtual_clock import virtual_time


@virtual_time
async def test_a_fault_of_our_own_is_one_item_s_outcome_and_a_line_in_the_log(caplog: pytest.LogCaptureFixture):
    async def faulty(request: Request) -> Response:
        raise RuntimeError("a bug")

    upstream = InMemoryUpstream(faulty)
    with in_memory_service(upstream) as service, caplog.at_level(logging.ERROR, "paceline"):
        outcomes = await run_batch(service, Batch(items(3)))
        assert sorted(outcome_codes(outcomes)) == ["protocol_error", "success", "success"]
        assert "a bug" in caplog.text
        assert is_idle(service)
