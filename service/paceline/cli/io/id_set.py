"""Millions of ids in 12 to 24 bytes each."""

from __future__ import annotations

from array import array

_HASH_MASK = (1 << 64) - 1
_INITIAL_SLOTS = 1024


class IdSet:
    """A set of texts, kept as 64-bit keyed hashes (SipHash, a fresh key each time) in one open-addressed table.

    Among a million texts, two collide with a probability of 3 in 10^8.
    """

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 * _INITIAL_SLOTS))
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, text: str) -> bool:
        return self._table[_find_slot(self._table, _hash64(text))] != 0

    def add(self, text: str) -> bool:
        """True when it was not there before."""
        hashed = _hash64(text)
        slot = _find_slot(self._table, hashed)
        if self._table[slot]:
            return False
        self._table[slot] = hashed
        self._size += 1
        if 3 * self._size > 2 * len(self._table):
            self._grow()
        return True

    def _grow(self) -> None:
        table = array("Q", bytes(16 * len(self._table)))
        for hashed in self._table:
            if hashed:
                table[_find_slot(table, hashed)] = hashed
        self._table = table


def _hash64(text: str) -> int:
    return hash(text) & _HASH_MASK or 1  # 0 marks a free slot


def _find_slot(table: array[int], hashed: int) -> int:
    """Find the slot of this hash, or the free slot where it belongs."""
    mask = len(table) - 1
    slot = hashed & mask
    while (found := table[slot]) and found != hashed:
        slot = (slot + 1) & mask
    return slot
