"""The three forms of a batch's response: one JSON document in request order, NDJSON, or server-sent events.

Each of them runs the batch itself, so that a caller that disconnects cancels it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator

import msgspec
from msgspec.structs import replace
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paceline.api.content_negotiation import EVENT_STREAM, JSON
from paceline.api.disconnect import run_until_disconnect
from paceline.api.errors import ClientDisconnected
from paceline.api.load_shedding import Reservation
from paceline.batch.run import BatchRun
from paceline.batch.runner import BatchRunner
from paceline.events import Event, ItemFinished
from paceline.model import Batch, ErrorCode, Failure, Outcome, OutcomeKind, Summary

SSE_COMMENT_INTERVAL_S = 15.0
_CHUNK_BYTES = 1 << 16
_MAX_WRITE_BYTES = 1 << 18
"""Up to this size a response is joined and written in one piece."""

_BATCH_LIMIT_MESSAGE = (
    "its body does not fit into server.max_batch_response; stream the batch, send smaller ones, or raise it"
)
_SERVICE_LIMIT_MESSAGE = (
    "the service keeps as many bytes of answers as it may; stream the batch, or send it again later"
)

_encode = msgspec.json.Encoder().encode


class ResponseBudget:
    """Bounds the bytes of outcomes that wait for one caller; a body that does not fit is left out."""

    def __init__(self, reservation: Reservation, max_bytes: int) -> None:
        self._reservation = reservation
        self._max_bytes = max_bytes
        self._buffered_bytes = 0
        self._dropped_successes = 0

    def encode_outcome(self, outcome: Outcome) -> bytes:
        """The outcome's JSON, without its body where that does not fit."""
        line = _encode(outcome)
        size = len(line)
        fits = self._buffered_bytes + size <= self._max_bytes
        if not (fits and self._reservation.reserve_response(size)):
            if outcome.body is not None:
                if outcome.outcome is OutcomeKind.SUCCESS:
                    self._dropped_successes += 1
                line = _encode(_without_body(outcome, _SERVICE_LIMIT_MESSAGE if fits else _BATCH_LIMIT_MESSAGE))
                size = len(line)
            self._reservation.reserve_response(size, force=True)
        self._buffered_bytes += size
        return line

    def release(self, size: int) -> None:
        """Release bytes that were handed over."""
        self._buffered_bytes -= size
        self._reservation.release_response(size)

    def correct_summary(self, summary: Summary) -> Summary:
        """The batch's summary, with items whose body was left out counted as failed."""
        dropped = self._dropped_successes
        if not dropped:
            return summary
        return replace(summary, succeeded=summary.succeeded - dropped, failed=summary.failed + dropped)


class JsonBatchResponse(Response):
    """One JSON document when everything is done."""

    def __init__(self, runner: BatchRunner, batch: Batch, reservation: Reservation, max_bytes: int) -> None:
        super().__init__(media_type=JSON)
        self._runner = runner
        self._batch = batch
        self._budget = ResponseBudget(reservation, max_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head, lines = await run_until_disconnect(receive, self._collect_outcomes())
        size = len(head) + sum(map(len, lines)) + len(lines) + 1
        if size <= _MAX_WRITE_BYTES:
            await Response(b"%b%b]}" % (head, b",".join(lines)), media_type=JSON)(scope, receive, send)
            return
        self.headers["content-length"] = str(size)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for chunk in self._iter_chunks(head, lines):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"]}", "more_body": False})

    async def _collect_outcomes(self) -> tuple[bytes, list[bytes]]:
        """What comes before the outcomes, and the outcomes in order."""
        batch, budget = self._batch, self._budget
        lines = [b""] * len(batch.items)

        def store_outcome(outcome: Outcome) -> None:
            lines[outcome.index] = budget.encode_outcome(outcome)

        run = self._runner.open_run(batch)
        summary = await self._runner.run(batch, store_outcome, run)
        head = {
            "batch_id": run.batch_id,
            "strategy": batch.strategy,
            "elapsed_ms": round(run.elapsed_s * 1000, 3),
            "summary": budget.correct_summary(summary),
        }
        return b'%b,"responses":[' % _encode(head)[:-1], lines

    def _iter_chunks(self, head: bytes, lines: list[bytes]) -> Iterator[bytes]:
        """All but the end, in pieces; each line is freed once it is handed over."""
        pieces, size = [head], 0
        for index, line in enumerate(lines):
            if index:
                pieces.append(b",")
            pieces.append(line)
            lines[index] = b""
            size += len(line)
            if size >= _CHUNK_BYTES:
                yield from split_chunks(pieces)
                self._budget.release(size)
                pieces, size = [], 0
        yield from split_chunks(pieces)


class StreamBuffer:
    """What one caller has not read yet. While it fills its bound, or all responses fill theirs, the batch is paused.

    Nothing is left out: it holds less than its bound, and the outcomes of what was in flight when that was reached.
    """

    def __init__(self, reservation: Reservation, max_bytes: int, run: BatchRun) -> None:
        self._reservation = reservation
        self._max_bytes = max_bytes
        self._run = run
        self._lines: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._last_taken_bytes = 0
        self.wakeup = asyncio.Event()
        reservation.add_response_memory_listener(self._update_backpressure)
        self._update_backpressure()

    def put(self, line: bytes) -> None:
        self._lines.append(line)
        self._buffered_bytes += len(line)
        self._reservation.reserve_response(len(line), force=True)
        self._update_backpressure()

    def take(self) -> list[bytes]:
        """The next lines, up to one write; they are held until the next are taken."""
        self._buffered_bytes -= self._last_taken_bytes
        self._reservation.release_response(self._last_taken_bytes)
        self._update_backpressure()
        lines, size = [], 0
        while self._lines and size < _CHUNK_BYTES:
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        self._last_taken_bytes = size
        return lines

    def _update_backpressure(self) -> None:
        if self._buffered_bytes >= self._max_bytes or self._reservation.is_response_memory_full:
            self._run.pause()
        else:
            self._run.resume()


class StreamingBatchResponse(Response):
    """Each outcome as it comes, the summary last; a caller that does not read does not fill the memory."""

    def __init__(
        self, runner: BatchRunner, batch: Batch, reservation: Reservation, max_bytes: int, media_type: str
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"}, media_type=media_type)
        del self.headers["content-length"]
        self._runner = runner
        self._batch = batch
        self._reservation = reservation
        self._max_bytes = max_bytes
        self._is_event_stream = media_type == EVENT_STREAM

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await run_until_disconnect(receive, self._stream_outcomes(send))
        except ClientDisconnected:
            return

    async def _stream_outcomes(self, send: Send) -> None:
        def buffer_outcome(event: Event) -> None:
            # Counted when the item ends, so that the batch pauses in time; written when it is reported, many at once.
            if isinstance(event, ItemFinished):
                buffer.put(self._frame(b"item", _encode(event.outcome)))

        runner = self._runner
        run = runner.open_run(self._batch, extra_listener=buffer_outcome, pausable=True)
        buffer = StreamBuffer(self._reservation, self._max_bytes, run)
        run_task = asyncio.get_running_loop().create_task(runner.run(self._batch, lambda _: buffer.wakeup.set(), run))
        run_task.add_done_callback(lambda _: buffer.wakeup.set())
        next_comment_at = time.perf_counter() + SSE_COMMENT_INTERVAL_S
        try:
            while True:
                buffer.wakeup.clear()
                is_finished = run_task.done()
                lines = buffer.take()
                if self._is_event_stream and time.perf_counter() >= next_comment_at:
                    next_comment_at += SSE_COMMENT_INTERVAL_S
                    lines.append(b": still at work\n\n")
                if lines:
                    for piece in split_chunks(lines):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                elif is_finished:
                    break
                else:
                    await _wait_for(
                        buffer.wakeup, next_comment_at - time.perf_counter() if self._is_event_stream else None
                    )
            summary_line = _encode({"summary": run_task.result()})
        finally:
            run_task.cancel()
            await asyncio.gather(run_task, return_exceptions=True)
        await send({"type": "http.response.body", "body": self._frame(b"summary", summary_line), "more_body": False})

    def _frame(self, event: bytes, line: bytes) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (event, line) if self._is_event_stream else line + b"\n"


class ChunkedResponse(Response):
    """A body that is handed over in pieces if it is large: its reservation lasts until its caller has taken it.

    In one piece it would go to the connection's buffer at once, where no reservation counts it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= _CHUNK_BYTES:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for chunk in split_chunks([bytes(self.body)]):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def split_chunks(pieces: list[bytes]) -> Iterator[bytes]:
    """Join the pieces or, if one is large, split each: no write takes long."""
    if all(len(piece) <= _MAX_WRITE_BYTES for piece in pieces):
        yield b"".join(pieces)
        return
    for piece in pieces:
        for start in range(0, len(piece), _MAX_WRITE_BYTES):
            yield piece[start : start + _MAX_WRITE_BYTES]


async def _wait_for(event: asyncio.Event, timeout_s: float | None) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return


def _without_body(outcome: Outcome, message: str) -> Outcome:
    return replace(
        outcome,
        outcome=ErrorCode.BATCH_RESPONSE_TOO_LARGE.outcome,
        body=None,
        body_encoding="none",
        error=Failure(ErrorCode.BATCH_RESPONSE_TOO_LARGE, message, sent=True),
    )
