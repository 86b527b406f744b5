"""A run through a service: lines go out as batches and come back as the service finishes them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing

import msgspec
from msgspec import Raw, Struct

from paceline.batch.outcome import OutcomeContext, outcome_without_response
from paceline.cli.backend import invalid_line_outcome
from paceline.cli.io.batch_json import BatchEncoder
from paceline.cli.io.ndjson_reader import InputLine, InvalidLine, NdjsonReader
from paceline.cli.io.output_writer import OutcomeLine, OutputWriter
from paceline.cli.io.service_client import (
    ConnectionLost,
    ServiceClient,
    ServiceErrorResponse,
    ServiceResponse,
    ServiceUnreachable,
)
from paceline.cli.usage_error import UsageError
from paceline.model import Batch, ErrorCode, Expect, Outcome, OutcomeKind, Receipt, Strategy
from paceline.retry_after import parse_retry_after

_PARALLEL_BATCHES = 4
"""Sent side by side, so that the last items of one do not leave the upstream idle."""

_MAX_BATCH_ITEMS = 250
_MAX_BATCH_DEADLINE_S = 900.0
"""A service takes this much unless configured otherwise; where it takes less it is asked for half, and so on."""

_UNREACHABLE_TIMEOUT_S = 30.0
"""How long a service may be out of reach, as it is while it restarts."""

_NDJSON = "application/x-ndjson"
_REQUEST_FIELD = re.compile(r"requests\[([0-9]+)\]")


class _Error(Struct):
    code: str
    sent: bool


class _ResultLine(Struct):
    """What a result line must have; the rest of it is passed on as it is."""

    index: int
    outcome: OutcomeKind
    attempts: int
    error: _Error | None


class RemoteBackend:
    """Sends chunks of items to `POST /v1/batch` and hands every outcome to the writer."""

    def __init__(self, client: ServiceClient, batch: Batch, lookahead: int) -> None:
        self._client = client
        # A limit, rate or order that the flags set would hold for each batch separately: send one batch at a time then.
        can_run_parallel = batch.max_concurrency is None and batch.rate is None
        self._parallel_batches = (
            _PARALLEL_BATCHES if can_run_parallel and batch.strategy in (Strategy.ADAPTIVE, Strategy.CONCURRENT) else 1
        )
        self._max_batch_items = max(1, min(_MAX_BATCH_ITEMS, lookahead // self._parallel_batches))
        self._batch_encoder = BatchEncoder(batch)
        self._deadline_at = time.perf_counter() + batch.deadline_s
        self._max_batch_deadline_s = _MAX_BATCH_DEADLINE_S
        self._batch_tasks: set[asyncio.Task[None]] = set()
        self._encode = msgspec.json.Encoder().encode
        self._decode_result = msgspec.json.Decoder(_ResultLine).decode
        self._decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode

    async def run(self, reader: NdjsonReader, writer: OutputWriter) -> None:
        """Read, send and await every item.

        Raises:
            UsageError: the service refuses the run, or cannot be reached any more.
        """
        read_task: asyncio.Task[list[InputLine | InvalidLine]] | None = None
        input_ended = False
        try:
            while not input_ended or self._batch_tasks:
                if not input_ended and read_task is None and len(self._batch_tasks) < self._parallel_batches:
                    read_task = asyncio.create_task(self._read_chunk(reader, writer))
                pending: set[asyncio.Task[object]] = {*self._batch_tasks, *([read_task] if read_task else [])}
                done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if read_task in done:
                    lines, read_task = read_task.result(), None
                    input_ended = not lines
                    chunk = [entry for entry in lines if isinstance(entry, InputLine)]
                    for line in lines:
                        if isinstance(line, InvalidLine):
                            self._write_outcome(writer, invalid_line_outcome(line))
                    if chunk:
                        self._batch_tasks.add(asyncio.create_task(self._send_until_done(chunk, writer)))
                for task in done & self._batch_tasks:
                    self._batch_tasks.discard(task)
                    task.result()
        finally:
            if read_task is not None:
                read_task.cancel()
                await asyncio.wait({read_task})
        await writer.wait_idle()

    async def drain(self, within_s: float) -> None:
        """After `run` was cancelled: wait at most `within_s` seconds for what was sent."""
        if self._batch_tasks:
            await asyncio.wait(self._batch_tasks, timeout=within_s)

    async def close(self) -> None:
        """Close the connections of batches in flight; the service cancels them."""
        for task in self._batch_tasks:
            task.cancel()
        await asyncio.gather(*self._batch_tasks, return_exceptions=True)
        await self._client.aclose()

    async def _read_chunk(self, reader: NdjsonReader, writer: OutputWriter) -> list[InputLine | InvalidLine]:
        slots = await writer.acquire_slots(self._max_batch_items)
        used_slots = 0
        try:
            lines = await reader.read_lines(slots)
            used_slots = len(lines)
        finally:
            writer.release_slots(slots - used_slots)
        return lines

    async def _send_until_done(self, chunk: list[InputLine], writer: OutputWriter) -> None:
        """Send until every item of the chunk has its outcome."""
        unreachable_since: float | None = None
        while chunk:
            remaining_s = self._deadline_at - time.perf_counter()
            if remaining_s <= 0:
                self._write_failures(
                    chunk, writer, ErrorCode.DEADLINE_EXCEEDED, "the run's deadline passed before it was sent"
                )
                return
            try:
                chunk, wait_s = await self._send_once(chunk, writer, min(remaining_s, self._max_batch_deadline_s))
                unreachable_since = None
            except ServiceUnreachable as error:
                now = time.perf_counter()
                unreachable_since = unreachable_since or now
                if now - unreachable_since > _UNREACHABLE_TIMEOUT_S:
                    raise UsageError(str(error)) from None
                wait_s = 1.0
            await asyncio.sleep(min(wait_s, max(0.0, self._deadline_at - time.perf_counter())))

    async def _send_once(
        self, chunk: list[InputLine], writer: OutputWriter, deadline_s: float
    ) -> tuple[list[InputLine], float]:
        """Send once. Returns what must be sent again, and after how many seconds."""
        body = self._batch_encoder.encode(chunk, deadline_s)
        try:
            async with self._client.stream("POST", "/v1/batch", body, _NDJSON) as response:
                if response.status == 200:
                    if not response.headers.get("content-type", "").startswith(_NDJSON):
                        raise UsageError(f"{self._client.address} does not answer like Paceline; correct --server")
                    return await self._read_results(chunk, response, writer), 0.0
                error = await response.read_error()
                if response.status in (429, 503):
                    return chunk, _wait_before_resend_s(response.headers)
        except ConnectionLost as lost:
            self._write_failures(chunk, writer, ErrorCode.CANCELLED, str(lost), sent=True)
            return [], 0.0
        return await self._recover(chunk, error, writer), 0.0

    async def _recover(
        self, chunk: list[InputLine], error: ServiceErrorResponse, writer: OutputWriter
    ) -> list[InputLine]:
        """Return what can be sent again after a rejection, or raise the rejection."""
        item_match = _REQUEST_FIELD.match(error.field or "")
        if error.status == 413 and len(chunk) > 1:
            half = len(chunk) // 2
            self._max_batch_items = min(self._max_batch_items, half)
            await self._send_until_done(chunk[:half], writer)
            return chunk[half:]
        if error.status == 413 or (error.status == 422 and item_match is not None and int(item_match[1]) < len(chunk)):
            index = int(item_match[1]) if item_match is not None else 0
            self._write_failures([chunk[index]], writer, ErrorCode.INVALID_REQUEST, str(error))
            return chunk[:index] + chunk[index + 1 :]
        if error.field == "deadline" and self._max_batch_deadline_s > 1:
            self._max_batch_deadline_s /= 2
            return chunk
        raise error

    async def _read_results(
        self, chunk: Sequence[InputLine], response: ServiceResponse, writer: OutputWriter
    ) -> list[InputLine]:
        """Write each result as it arrives; return the items that the batch's deadline kept from being sent."""
        unanswered = dict(enumerate(chunk))
        resend: list[InputLine] = []
        try:
            async with aclosing(response.iter_lines()) as lines:
                async for text in lines:
                    if text.startswith(b'{"summary"'):
                        break
                    result = self._decode_result(text)
                    line = unanswered.pop(result.index)
                    if self._should_resend(result):
                        resend.append(line)
                        continue
                    fields = self._decode_fields(text)
                    fields["index"] = Raw(b"%d" % line.index)
                    writer.enqueue(OutcomeLine(self._encode(fields) + b"\n", result.outcome, result.attempts))
        except ConnectionLost as error:
            reason = str(error)
        except (msgspec.DecodeError, KeyError):
            reason = "the service answered what is no result of this batch"
        else:
            reason = "the service ended its answer before this item's outcome"
        if unanswered:
            self._write_failures(list(unanswered.values()), writer, ErrorCode.CANCELLED, reason, sent=True)
        return resend

    def _should_resend(self, result: _ResultLine) -> bool:
        """Return whether an item waited past the deadline of its batch only, while the run has time left."""
        if result.error is None or result.error.sent or self._deadline_at <= time.perf_counter():
            return False
        return result.error.code in (ErrorCode.DEADLINE_EXCEEDED, ErrorCode.DEADLINE_UNREACHABLE)

    def _write_failures(
        self,
        lines: Sequence[InputLine],
        writer: OutputWriter,
        code: ErrorCode,
        message: str,
        *,
        sent: bool = False,
    ) -> None:
        for line in lines:
            context = OutcomeContext(line.id, line.index, Expect.AUTO, 0.0, Receipt())
            self._write_outcome(writer, outcome_without_response(context, code, message, 0.0, sent=sent))

    def _write_outcome(self, writer: OutputWriter, outcome: Outcome) -> None:
        writer.enqueue(OutcomeLine(self._encode(outcome) + b"\n", outcome.outcome, outcome.attempts))


def _wait_before_resend_s(headers: Mapping[str, str]) -> float:
    """What the service, or a proxy in front of it, asks to wait; one second where it does not say."""
    retry_after_s = parse_retry_after(headers.items(), time.time())
    return 1.0 if retry_after_s is None else min(60.0, max(0.1, retry_after_s))
