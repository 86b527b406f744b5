"""A run through a service: lines go out as batches and come back as the service finishes them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence

import msgspec
from msgspec import Raw, Struct

from paceline.batch.outcome import Subject, failed
from paceline.cli.client import BrokenOff, Refused, Reply, ServiceClient, Unreachable
from paceline.cli.local import unusable
from paceline.cli.options import UsageProblem, attempts_of
from paceline.cli.outlet import Outlet, Ready
from paceline.cli.source import Entry, Source, Unusable
from paceline.model import Batch, Expect, Outcome, OutcomeKind, Receipt, Strategy

_BATCHES = 4
"""Sent side by side, so that the last items of one do not leave the upstream idle."""

_MOST_ITEMS = 250
_LONGEST_DEADLINE_S = 900.0
"""A service takes this much unless configured otherwise; where it takes less it is asked for half, and so on."""

_PATIENCE_S = 30.0
"""How long a service may be out of reach, as it is while it restarts."""

_NDJSON = "application/x-ndjson"
_ITEM_OF = re.compile(r"requests\[([0-9]+)\]")


class _Error(Struct):
    code: str
    sent: bool


class _Line(Struct):
    """What a result line must have; the rest of it is passed on as it is."""

    index: int
    outcome: OutcomeKind
    attempts: int
    error: _Error | None


class RemoteRun:
    """Sends chunks of items to `POST /v1/batch` and puts each outcome into the outlet."""

    def __init__(self, client: ServiceClient, batch: Batch, lookahead: int) -> None:
        self._client = client
        # A cap, a rate or an order of the run's own would hold for each batch by itself: then there is one at a time.
        shared = batch.max_concurrency is None and batch.rate is None
        self._lanes = _BATCHES if shared and batch.strategy in (Strategy.ADAPTIVE, Strategy.CONCURRENT) else 1
        self._most = max(1, min(_MOST_ITEMS, lookahead // self._lanes))
        self._head = _head_of(batch)
        self._deadline = time.perf_counter() + batch.deadline_s
        self._longest_s = _LONGEST_DEADLINE_S
        self._sending: set[asyncio.Task[None]] = set()
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(_Line).decode
        self._fields = msgspec.json.Decoder(dict[str, Raw]).decode

    async def carry(self, source: Source, outlet: Outlet) -> None:
        """Read, send and await every item.

        Raises:
            UsageProblem: the service refuses the run, or cannot be reached any more.
        """
        taking: asyncio.Task[list[Entry | Unusable]] | None = None
        ended = False
        try:
            while not ended or self._sending:
                if not ended and taking is None and len(self._sending) < self._lanes:
                    taking = asyncio.create_task(self._take(source, outlet))
                waited: set[asyncio.Task[object]] = {*self._sending, *([taking] if taking else [])}
                done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if taking in done:
                    entries, taking = taking.result(), None
                    ended = not entries
                    chunk = [entry for entry in entries if isinstance(entry, Entry)]
                    for entry in entries:
                        if isinstance(entry, Unusable):
                            self._put(outlet, unusable(entry))
                    if chunk:
                        self._sending.add(asyncio.create_task(self._send(chunk, outlet)))
                for task in done & self._sending:
                    self._sending.discard(task)
                    task.result()
        finally:
            if taking is not None:
                taking.cancel()
                await asyncio.wait({taking})
        await outlet.empty()

    async def settle(self, within_s: float) -> None:
        """After `carry` was cancelled: what was sent may end."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=within_s)

    async def close(self) -> None:
        """Hang up on what is still on its way; the service cancels it."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)

    async def _take(self, source: Source, outlet: Outlet) -> list[Entry | Unusable]:
        room = await outlet.room(self._most)
        taken = 0
        try:
            entries = await source.take(room)
            taken = len(entries)
        finally:
            outlet.give_back(room - taken)
        return entries

    async def _send(self, chunk: list[Entry], outlet: Outlet) -> None:
        """Send until every item of the chunk has its outcome."""
        unreachable_since: float | None = None
        while chunk:
            left_s = self._deadline - time.perf_counter()
            if left_s <= 0:
                self._fail(chunk, outlet, OutcomeKind.DEADLINE_EXCEEDED, "the run's deadline passed before it was sent")
                return
            try:
                chunk, wait_s = await self._ask(chunk, outlet, min(left_s, self._longest_s))
                unreachable_since = None
            except Unreachable as error:
                now = time.perf_counter()
                unreachable_since = unreachable_since or now
                if now - unreachable_since > _PATIENCE_S:
                    raise UsageProblem(str(error)) from None
                wait_s = 1.0
            await asyncio.sleep(min(wait_s, max(0.0, self._deadline - time.perf_counter())))

    async def _ask(self, chunk: list[Entry], outlet: Outlet, deadline_s: float) -> tuple[list[Entry], float]:
        """One try. Returns what is to be sent again, and after how long."""
        body = _whole(self._head, chunk, deadline_s)
        async with self._client.post("/v1/batch", body, _NDJSON) as reply:
            if reply.status == 200:
                if not reply.headers.get("content-type", "").startswith(_NDJSON):
                    raise UsageProblem(f"{self._client.address} does not answer like Paceline; correct --server")
                return await self._receive(chunk, reply, outlet), 0.0
            refusal = await reply.refusal()
            if reply.status in (429, 503):
                return chunk, _seconds(reply.headers.get("retry-after", ""))
        return await self._mend(chunk, refusal, outlet), 0.0

    async def _mend(self, chunk: list[Entry], refusal: Refused, outlet: Outlet) -> list[Entry]:
        """What can be sent all the same after a refusal, or the refusal itself."""
        at = _ITEM_OF.match(refusal.field or "")
        if refusal.status == 413 and len(chunk) > 1:
            half = len(chunk) // 2
            self._most = min(self._most, half)
            await self._send(chunk[:half], outlet)
            return chunk[half:]
        if refusal.status == 413 or (refusal.status == 422 and at is not None and int(at[1]) < len(chunk)):
            place = int(at[1]) if at is not None else 0
            self._fail([chunk[place]], outlet, OutcomeKind.REJECTED, str(refusal), "invalid_request")
            return chunk[:place] + chunk[place + 1 :]
        if refusal.field == "deadline" and self._longest_s > 1:
            self._longest_s /= 2
            return chunk
        raise refusal

    async def _receive(self, chunk: Sequence[Entry], reply: Reply, outlet: Outlet) -> list[Entry]:
        """Put each result as it comes; returns the items that had to wait too long and were never sent."""
        waiting = dict(enumerate(chunk))
        again: list[Entry] = []
        try:
            async for text in reply.lines():
                if text.startswith(b'{"summary"'):
                    break
                line = self._decode(text)
                entry = waiting.pop(line.index)
                if self._again(line):
                    again.append(entry)
                    continue
                fields = self._fields(text)
                fields["index"] = Raw(b"%d" % entry.index)
                outlet.put(Ready(self._encode(fields) + b"\n", line.outcome, line.attempts))
        except BrokenOff as error:
            reason = str(error)
        except (msgspec.DecodeError, KeyError):
            reason = "the service answered what is no result of this batch"
        else:
            reason = "the service ended its answer before this item's outcome"
        if waiting:
            self._fail(list(waiting.values()), outlet, OutcomeKind.CANCELLED, reason, sent=True)
        return again

    def _again(self, line: _Line) -> bool:
        """It only waited longer than one batch may take, while the run itself has time left."""
        if line.error is None or line.error.sent or self._deadline <= time.perf_counter():
            return False
        return line.error.code in ("deadline_exceeded", "deadline_unreachable")

    def _fail(
        self,
        entries: Sequence[Entry],
        outlet: Outlet,
        kind: OutcomeKind,
        message: str,
        code: str | None = None,
        *,
        sent: bool = False,
    ) -> None:
        for entry in entries:
            subject = Subject(entry.id, entry.index, Expect.AUTO, 0.0, Receipt())
            self._put(outlet, failed(subject, kind, code or kind.value, message, 0.0, sent=sent))

    def _put(self, outlet: Outlet, outcome: Outcome) -> None:
        outlet.put(Ready(self._encode(outcome) + b"\n", outcome.outcome, outcome.attempts))


def _head_of(batch: Batch) -> bytes:
    """The batch's own fields, without the brace that closes them."""
    fields: dict[str, object] = {"strategy": batch.strategy, "priority": batch.priority}
    if batch.max_concurrency is not None:
        fields["max_concurrency"] = batch.max_concurrency
    if batch.rate is not None:
        fields["rate"] = {"limit": batch.rate.limit, "per": batch.rate.per_s, "burst": batch.rate.burst}
    attempts = attempts_of(batch)
    if attempts is not None:
        fields["retry"] = {"attempts": attempts}
    return msgspec.json.encode(fields)[:-1]


def batch_body(batch: Batch, chunk: Sequence[Entry], deadline_s: float | None) -> bytes:
    """What `POST /v1/batch` takes."""
    return _whole(_head_of(batch), chunk, deadline_s)


def _whole(head: bytes, chunk: Sequence[Entry], deadline_s: float | None) -> bytes:
    deadline = b"" if deadline_s is None else b',"deadline":%.3f' % deadline_s
    return b"".join((head, deadline, b',"requests":[', _items(chunk), b"]}"))


def _items(chunk: Sequence[Entry]) -> bytes:
    return b",".join(_with_id(entry) for entry in chunk)


def _with_id(entry: Entry) -> bytes:
    """The line as it was written; one without an id gets its index, as it would in a batch of the whole input."""
    if isinstance(entry.item.id, str):
        return entry.text
    fields = msgspec.json.decode(entry.text, type=dict[str, Raw])
    return msgspec.json.encode({"id": entry.id, **fields})


def _seconds(retry_after: str) -> float:
    """What the service asks to wait; one second where it does not say."""
    return min(60.0, max(0.1, float(retry_after))) if retry_after.isdecimal() else 1.0
