"""Items from NDJSON, one a line, read no further ahead than there is room for."""

from __future__ import annotations

import os
from collections import deque

import msgspec
from msgspec import UNSET, Struct, UnsetType

from paceline.api.checks import check_item
from paceline.api.fields import Wrong
from paceline.batch.order import needs_of
from paceline.cli.aside import Aside
from paceline.cli.ids import IdSet
from paceline.cli.options import UsageProblem
from paceline.model import Item
from paceline.units import write_size

_CHUNK = 64 * 1024
LONGEST_LINE = 8 * 1024 * 1024


class Entry(Struct, frozen=True):
    """One line that is an item. `index` counts lines that are not blank, from 0."""

    index: int
    id: str
    item: Item
    text: bytes


class Unusable(Struct, frozen=True):
    """One line that is no item, and why."""

    index: int
    id: str
    message: str


class _Named(Struct):
    id: str | UnsetType = UNSET


class Source:
    """The lines of a file descriptor, numbered and decoded.

    `done`: ids that have succeeded in an earlier run. Where it is given their lines are skipped and counted, and a line
    without an id is a `UsageProblem`, since nobody could say whether it is done.
    """

    def __init__(self, fd: int, done: IdSet | None = None) -> None:
        self._fd = fd
        self._done = done
        self._aside = Aside("input")
        self._decode = msgspec.json.Decoder(Item).decode
        self._name = msgspec.json.Decoder(_Named).decode
        self._seen = IdSet()
        self._lines: deque[bytes] = deque()
        self._torn = bytearray()
        self.ended = False
        self._line = 0
        self.read = 0
        """Lines read that are not blank."""
        self.skipped = 0
        """Lines of ids that were done before."""

    async def take(self, most: int) -> list[Entry | Unusable]:
        """Up to `most` of the next lines, as many as are there without waiting, one at least; none at the end.

        Raises:
            UsageProblem: the input cannot be read, or cannot be resumed.
        """
        taken: list[Entry | Unusable] = []
        while not taken:
            while self._lines and len(taken) < most:
                text = self._lines.popleft()
                self._line += 1
                if text and not text.isspace():
                    entry = self._entry(text)
                    if entry is not None:
                        taken.append(entry)
            if not taken:
                if self.ended:
                    break
                await self._more()
        return taken

    def close(self) -> None:
        self._aside.close()

    async def _more(self) -> None:
        try:
            chunk = await self._aside.run(lambda: os.read(self._fd, _CHUNK))
        except OSError as error:
            raise UsageProblem(f"the input cannot be read: {error.strerror}") from None
        if not chunk:
            self.ended = True
            if self._torn:
                self._lines.append(bytes(self._torn))
                self._torn.clear()
            return
        first, *others = chunk.split(b"\n")
        self._extend(first)
        for other in others:
            self._lines.append(bytes(self._torn))
            self._torn.clear()
            self._extend(other)

    def _extend(self, part: bytes) -> None:
        """Add to the line that is not whole yet; past the longest allowed one more byte tells that it was longer."""
        self._torn += part[: LONGEST_LINE + 1 - len(self._torn)]

    def _entry(self, text: bytes) -> Entry | Unusable | None:
        index = self.read
        self.read += 1
        if self._line == 1:
            text = text.removeprefix(b"\xef\xbb\xbf")
        if len(text) > LONGEST_LINE:
            return self._unusable(index, None, f"it is longer than {write_size(LONGEST_LINE)}")
        try:
            item = self._decode(text)
        except msgspec.ValidationError as error:
            return self._unusable(index, text, str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return self._unusable(index, None, f"it is not JSON: {error}")
        if self._done is not None:
            if item.id is UNSET:
                raise UsageProblem(
                    f"line {self._line} of the input has no id, so nobody can say whether it is done; "
                    "give every line an id, or start again with another output file"
                )
            if item.id in self._done:
                self.skipped += 1
                return None
        if needs_of(item):
            return self._unusable(index, text, "depends_on needs a batch that is known as a whole; use POST /v1/batch")
        try:
            check_item(item)
        except Wrong as wrong:
            return self._unusable(index, text, f"{wrong.field} {wrong.problem}")
        name = str(index) if item.id is UNSET else item.id
        if not self._seen.add(name):
            return self._unusable(index, text, f"the id {name[:80]!r} was on an earlier line; give each its own")
        return Entry(index, name, item, text)

    def _unusable(self, index: int, text: bytes | None, problem: str) -> Unusable:
        name: str | UnsetType = UNSET
        if text is not None:
            try:
                name = self._name(text).id
            except msgspec.ValidationError:
                name = UNSET
        # A line nobody can read has no id to go by, and its index may be another line's id.
        label = f"line-{self._line}" if name is UNSET else name
        return Unusable(index, label, f"line {self._line}: {problem}")
