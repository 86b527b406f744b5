"""The three forms of a batch's answer: one JSON document in request order, NDJSON, or server-sent events.

All of them run the batch themselves, so that a caller that hangs up cancels it.
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

from paceline.api.accept import EVENTS, JSON
from paceline.api.caller import unless_gone
from paceline.api.core import Core
from paceline.api.errors import CallerGone
from paceline.api.intake import Place
from paceline.batch.runner import Run
from paceline.events import Event, ItemFinished
from paceline.model import Batch, Failure, Outcome, OutcomeKind, Summary

COMMENT_EVERY_S = 15.0
_CHUNK = 1 << 16
_IN_ONE = 1 << 18
"""Up to this size an answer is put together in one piece."""

_TOO_MUCH = "its body does not fit into server.max_batch_response; stream the batch, send smaller ones, or raise it"
_TOO_MUCH_OF_ALL = "the service keeps as many bytes of answers as it may; stream the batch, or send it again later"

_encode = msgspec.json.Encoder().encode


class Room:
    """How many bytes of outcomes may be kept for one caller; a body that does not fit is left out."""

    def __init__(self, place: Place, most: int) -> None:
        self._place = place
        self._most = most
        self._kept = 0
        self._succeeded_less = 0

    def line(self, outcome: Outcome) -> bytes:
        """The outcome's JSON, without its body where that does not fit."""
        line = _encode(outcome)
        size = len(line)
        fits = self._kept + size <= self._most
        if not (fits and self._place.hold_answer(size)):
            if outcome.body is not None:
                if outcome.outcome is OutcomeKind.SUCCESS:
                    self._succeeded_less += 1
                line = _encode(_without_body(outcome, _TOO_MUCH_OF_ALL if fits else _TOO_MUCH))
                size = len(line)
            self._place.hold_answer(size, needed=True)
        self._kept += size
        return line

    def taken_away(self, size: int) -> None:
        """So many bytes were handed over and are kept no longer."""
        self._kept -= size
        self._place.free_answer(size)

    def summary(self, summary: Summary) -> Summary:
        """The batch's summary with what was left out counted as failed."""
        less = self._succeeded_less
        if not less:
            return summary
        return replace(summary, succeeded=summary.succeeded - less, failed=summary.failed + less)


class WholeAnswer(Response):
    """One JSON document when everything is done."""

    def __init__(self, core: Core, batch: Batch, place: Place) -> None:
        super().__init__(media_type=JSON)
        self._core = core
        self._batch = batch
        self._room = Room(place, core.config.server.max_batch_response)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head, lines = await unless_gone(receive, self._run())
        size = len(head) + sum(map(len, lines)) + len(lines) + 1
        if size <= _IN_ONE:
            await Response(b"%b%b]}" % (head, b",".join(lines)), media_type=JSON)(scope, receive, send)
            return
        self.headers["content-length"] = str(size)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for chunk in self._chunks(head, lines):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"]}", "more_body": False})

    async def _run(self) -> tuple[bytes, list[bytes]]:
        """What stands before the outcomes, and the outcomes in order."""
        batch, room = self._batch, self._room
        lines = [b""] * len(batch.items)

        def keep(outcome: Outcome) -> None:
            lines[outcome.index] = room.line(outcome)

        run = self._core.runner.open(batch)
        summary = await self._core.runner.run(batch, keep, run)
        head = {
            "batch_id": run.batch_id,
            "strategy": batch.strategy,
            "elapsed_ms": round(run.elapsed_s * 1000, 3),
            "summary": room.summary(summary),
        }
        return b'%b,"responses":[' % _encode(head)[:-1], lines

    def _chunks(self, head: bytes, lines: list[bytes]) -> Iterator[bytes]:
        """All but the end, in pieces; each line is let go of once it is handed over."""
        pieces, size = [head], 0
        for index, line in enumerate(lines):
            if index:
                pieces.append(b",")
            pieces.append(line)
            lines[index] = b""
            size += len(line)
            if size >= _CHUNK:
                yield from cut(pieces)
                self._room.taken_away(size)
                pieces, size = [], 0
        yield from cut(pieces)


class Unread:
    """What one caller has still to take. While that fills its room, or all answers fill the service, its batch is held.

    Nothing is left out: it keeps less than the room, and the outcomes of what was in flight when that was full.
    """

    def __init__(self, place: Place, room: int, run: Run) -> None:
        self._place = place
        self._room = room
        self._run = run
        self._lines: deque[bytes] = deque()
        self._kept = 0
        self._taken = 0
        self.news = asyncio.Event()
        place.watch(self._look)
        self._look()

    def put(self, line: bytes) -> None:
        self._lines.append(line)
        self._kept += len(line)
        self._place.hold_answer(len(line), needed=True)
        self._look()

    def take(self) -> list[bytes]:
        """The next lines, a write of them; they are kept until the next are taken."""
        self._kept -= self._taken
        self._place.free_answer(self._taken)
        self._look()
        lines, size = [], 0
        while self._lines and size < _CHUNK:
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        self._taken = size
        return lines

    def _look(self) -> None:
        if self._kept >= self._room or self._place.is_crowded:
            self._run.hold()
        else:
            self._run.go_on()


class StreamAnswer(Response):
    """Each outcome when it is there, the summary last; a caller that does not read does not fill our memory."""

    def __init__(self, core: Core, batch: Batch, place: Place, form: str) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"}, media_type=form)
        del self.headers["content-length"]
        self._core = core
        self._batch = batch
        self._place = place
        self._events = form == EVENTS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await unless_gone(receive, self._run(send))
        except CallerGone:
            return

    async def _run(self, send: Send) -> None:
        def keep(event: Event) -> None:
            # Counted as it ends, so that the batch is held in time; written when it is reported, many in one write.
            if isinstance(event, ItemFinished):
                unread.put(self._framed(b"item", _encode(event.outcome)))

        runner = self._core.runner
        run = runner.open(self._batch, also=keep, holdable=True)
        unread = Unread(self._place, self._core.config.server.max_batch_response, run)
        running = asyncio.get_running_loop().create_task(runner.run(self._batch, lambda _: unread.news.set(), run))
        running.add_done_callback(lambda _: unread.news.set())
        comment_at = time.perf_counter() + COMMENT_EVERY_S
        try:
            while True:
                unread.news.clear()
                ended = running.done()
                chunk = unread.take()
                if self._events and time.perf_counter() >= comment_at:
                    comment_at += COMMENT_EVERY_S
                    chunk.append(b": still at work\n\n")
                if chunk:
                    for piece in cut(chunk):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                elif ended:
                    break
                else:
                    await _within(unread.news, comment_at - time.perf_counter() if self._events else None)
            last = _encode({"summary": running.result()})
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await send({"type": "http.response.body", "body": self._framed(b"summary", last), "more_body": False})

    def _framed(self, event: bytes, line: bytes) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (event, line) if self._events else line + b"\n"


def cut(pieces: list[bytes]) -> Iterator[bytes]:
    """The pieces put together, or, where there is a large one, each in parts: no write takes long."""
    if all(len(piece) <= _IN_ONE for piece in pieces):
        yield b"".join(pieces)
        return
    for piece in pieces:
        for start in range(0, len(piece), _IN_ONE):
            yield piece[start : start + _IN_ONE]


async def _within(news: asyncio.Event, timeout_s: float | None) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await news.wait()
    except TimeoutError:
        return


def _without_body(outcome: Outcome, why: str) -> Outcome:
    return replace(
        outcome,
        outcome=OutcomeKind.TOO_LARGE,
        body=None,
        body_encoding="none",
        error=Failure("batch_response_too_large", why, sent=True),
    )
