"""What sends a run's items: `LocalBackend` in this process, `RemoteBackend` through a running service."""

from __future__ import annotations

from typing import Protocol

from paceline.batch.outcome import OutcomeContext, outcome_without_response
from paceline.cli.io.ndjson_reader import InvalidLine, NdjsonReader
from paceline.cli.io.output_writer import OutputWriter
from paceline.model import ErrorCode, Expect, Outcome, Receipt


class Backend(Protocol):
    """How items get their outcomes."""

    async def run(self, reader: NdjsonReader, writer: OutputWriter) -> None:
        """Read, send and await every item."""

    async def drain(self, within_s: float) -> None:
        """After `run` was cancelled: let what is in flight end, for at most `within_s` seconds."""

    async def close(self) -> None:
        """Cancel what is still in flight and close every connection."""


def invalid_line_outcome(line: InvalidLine) -> Outcome:
    """Build the outcome of a line that is not an item."""
    context = OutcomeContext(line.id, line.index, Expect.AUTO, 0.0, Receipt())
    return outcome_without_response(context, ErrorCode.INVALID_REQUEST, line.message, 0.0)
