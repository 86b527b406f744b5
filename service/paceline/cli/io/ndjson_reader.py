"""Items from NDJSON, one a line, read no further ahead than there is room for."""

from __future__ import annotations

import os
from collections import deque

import msgspec
from msgspec import UNSET, Struct, UnsetType

from paceline.batch.dependency_order import dependency_field, dependency_ids
from paceline.batch.input_errors import FieldError, InputError, MalformedInput
from paceline.batch.json_decoding import decode_json
from paceline.batch.validation import check_item, duplicate_id
from paceline.cli.io.daemon_thread import DaemonThreadExecutor
from paceline.cli.io.id_set import IdSet
from paceline.cli.usage_error import UsageError
from paceline.model import Item
from paceline.units import format_size

_CHUNK_BYTES = 64 * 1024
MAX_LINE_BYTES = 8 * 1024 * 1024
_WHOLE_LINE = "the line"


class InputLine(Struct, frozen=True):
    """One line that is an item. `index` counts lines that are not blank, from 0."""

    index: int
    id: str
    item: Item
    text: bytes


class InvalidLine(Struct, frozen=True):
    """One line that is no item; `message` says why, in the words that the HTTP API has for it."""

    index: int
    id: str
    message: str


class _IdOnly(Struct):
    id: str | UnsetType = UNSET


class NdjsonReader:
    """The lines of a file descriptor, numbered and decoded.

    `done`: ids that have succeeded in an earlier run. Where it is given their lines are skipped and counted, and a line
    without an id is a `UsageError`, since it cannot be known whether it is done.
    """

    def __init__(self, fd: int, completed_ids: IdSet | None = None) -> None:
        self._fd = fd
        self._completed_ids = completed_ids
        self._thread = DaemonThreadExecutor("input")
        self._item_decoder = msgspec.json.Decoder(Item)
        self._decode_id = msgspec.json.Decoder(_IdOnly).decode
        self._seen_ids = IdSet()
        self._pending_lines: deque[bytes] = deque()
        self._partial_line = bytearray()
        self.is_at_end = False
        self._line_number = 0
        self.lines_read = 0
        """Lines read that are not blank."""
        self.lines_skipped = 0
        """Lines whose ids succeeded in an earlier run."""

    async def read_lines(self, max_lines: int) -> list[InputLine | InvalidLine]:
        """Up to `max_lines` of the next lines, as many as are there without waiting, at least one; none at the end.

        Raises:
            UsageError: the input cannot be read, or cannot be resumed.
        """
        lines: list[InputLine | InvalidLine] = []
        while not lines:
            while self._pending_lines and len(lines) < max_lines:
                text = self._pending_lines.popleft()
                self._line_number += 1
                if text and not text.isspace():
                    line = self._parse_line(text)
                    if line is not None:
                        lines.append(line)
            if not lines:
                if self.is_at_end:
                    break
                await self._read_chunk()
        return lines

    def close(self) -> None:
        self._thread.close()

    async def _read_chunk(self) -> None:
        try:
            chunk = await self._thread.run(lambda: os.read(self._fd, _CHUNK_BYTES))
        except OSError as error:
            raise UsageError(f"the input cannot be read: {error.strerror}") from None
        if not chunk:
            self.is_at_end = True
            if self._partial_line:
                self._pending_lines.append(bytes(self._partial_line))
                self._partial_line.clear()
            return
        first, *others = chunk.split(b"\n")
        self._append_partial(first)
        for other in others:
            self._pending_lines.append(bytes(self._partial_line))
            self._partial_line.clear()
            self._append_partial(other)

    def _append_partial(self, part: bytes) -> None:
        """Add to the line that is not whole yet; one byte above the maximum shows that it was longer."""
        self._partial_line += part[: MAX_LINE_BYTES + 1 - len(self._partial_line)]

    def _parse_line(self, text: bytes) -> InputLine | InvalidLine | None:
        index = self.lines_read
        self.lines_read += 1
        if self._line_number == 1:
            text = text.removeprefix(b"\xef\xbb\xbf")
        if len(text) > MAX_LINE_BYTES:
            too_long = MalformedInput(f"is larger than {format_size(MAX_LINE_BYTES)}; make it smaller")
            return self._invalid_line(index, None, too_long)
        try:
            item = decode_json(text, self._item_decoder)
        except MalformedInput as error:
            return self._invalid_line(index, None, error)
        except FieldError as error:
            return self._invalid_line(index, text, error)
        if self._completed_ids is not None:
            if item.id is UNSET:
                raise UsageError(
                    f"line {self._line_number} of the input has no id, so nobody can say whether it is done; "
                    "give every line an id, or start again with another output file"
                )
            if item.id in self._completed_ids:
                self.lines_skipped += 1
                return None
        item_id = str(index) if item.id is UNSET else item.id
        try:
            check_item(item)
            _check_no_dependencies(item)
            if not self._seen_ids.add(item_id):
                raise duplicate_id("id", item_id, "an earlier line")
        except FieldError as error:
            return self._invalid_line(index, text, error)
        return InputLine(index, item_id, item, text)

    def _invalid_line(self, index: int, text: bytes | None, error: InputError) -> InvalidLine:
        item_id: str | UnsetType = UNSET
        if text is not None:
            try:
                item_id = self._decode_id(text).id
            except (msgspec.DecodeError, RecursionError):  # the first mistake may not be the only one
                item_id = UNSET
        # A line that cannot be read has no known id, and its index may be another line's id.
        id_or_line = f"line-{self._line_number}" if item_id is UNSET else item_id
        return InvalidLine(index, id_or_line, f"line {self._line_number}: {error.describe(_WHOLE_LINE)}")


def _check_no_dependencies(item: Item) -> None:
    if dependency_ids(item):
        raise FieldError(dependency_field(item), "needs a batch that is known as a whole; use POST /v1/batch")
