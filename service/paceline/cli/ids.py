"""Millions of ids in 12 to 24 bytes each."""

from __future__ import annotations

from array import array

_WORD = (1 << 64) - 1
_FIRST_SIZE = 1024


class IdSet:
    """A set of texts, kept as 64-bit keyed hashes (SipHash, a fresh key each time) in one open-addressed table.

    Two different texts are taken for one with a chance of 3 in 10^8 for a million of them.
    """

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 * _FIRST_SIZE))
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, text: str) -> bool:
        return self._table[_place(self._table, _word(text))] != 0

    def add(self, text: str) -> bool:
        """True when it was not there before."""
        word = _word(text)
        place = _place(self._table, word)
        if self._table[place]:
            return False
        self._table[place] = word
        self._size += 1
        if 3 * self._size > 2 * len(self._table):
            self._grow()
        return True

    def _grow(self) -> None:
        table = array("Q", bytes(16 * len(self._table)))
        for word in self._table:
            if word:
                table[_place(table, word)] = word
        self._table = table


def _word(text: str) -> int:
    return hash(text) & _WORD or 1  # 0 marks a free place


def _place(table: array[int], word: int) -> int:
    """Where this word is, or the free place where it belongs."""
    mask = len(table) - 1
    place = word & mask
    while (found := table[place]) and found != word:
        place = (place + 1) & mask
    return place
