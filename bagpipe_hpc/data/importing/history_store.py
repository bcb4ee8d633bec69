"""The newest entries of each key, in memory that grows with the keys and never with the lines.

A key has a *ring*: a place for up to `max_length` entries, in which a new entry takes the place of the oldest one. All
rings lie in one array. A ring has room for 2 entries at first and for twice as many when it is full; the room that it
leaves goes to the next ring that needs as much.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.data.vocabulary import empty_table
from bagpipe_hpc.hash_table import place_of
from bagpipe_hpc.sharding import Int64Array

BoolArray = NDArray[np.bool_]

_KEY, _START, _SIZE, _LENGTH, _OLDEST, _COMING = range(6)
"""Columns of a ring: its key; where it starts; its size class, -1 without room; its entries; the oldest of them; its
entries after the lines that `lengths` has looked at."""
_FIRST_ROOM = 2
_MIN_ENTRIES = 1024


class HistoryStore:
    """The newest entries of each key, the oldest first.

    Args:
        width: How many numbers an entry has, all of them int64.
        max_length: How many entries of a key are kept.
    """

    def __init__(self, width: int, max_length: int) -> None:
        self.width, self.max_length = width, max_length
        self._num_rings = 0
        self._keys, self._marks = empty_table(0, np.int64)  # the mark of a key is the number of its ring, from 1 on
        self._rings = np.zeros((_MIN_ENTRIES, 6), np.int64)
        self._entries = np.empty((width, max(_MIN_ENTRIES, max_length)), np.int64)
        # The end of the used entries, then for each size class the first ring of that size that is free, or -1.
        self._free = np.full(2 + max_length.bit_length(), -1, np.int64)
        self._free[0] = 0

    @property
    def num_bytes(self) -> int:
        """The memory of all arrays."""
        arrays = (self._keys, self._marks, self._rings, self._entries, self._free)
        return sum(array.nbytes for array in arrays)

    def rings_of(self, keys: Int64Array) -> Int64Array:
        """Return the ring of each key, int64, shape (n,); -1 for negative keys. A new key gets a ring."""
        self._make_room_for_keys(len(keys))
        rings, self._num_rings = _find(keys, self._keys, self._marks, self._rings, self._num_rings)
        return rings

    def lengths(self, rings: Int64Array, enters: BoolArray) -> Int64Array:
        """Return how many entries there are before each line, int64, shape (n,), without a change.

        Args:
            rings: The ring of each line, int64, shape (n,).
            enters: Whether the line becomes an entry itself, shape (n,).
        """
        return _lengths_before(rings, enters, self._rings, self.max_length)

    def extend(self, rings: Int64Array, enters: BoolArray, entries: Int64Array, lengths: Int64Array) -> Int64Array:
        """Add lines; return the entries before each of them.

        Args:
            rings: The ring of each line, int64, shape (n,).
            enters: Whether the line becomes an entry, shape (n,).
            entries: int64, shape (width, n).
            lengths: What `lengths` returns for these lines, or zeros, shape (n,): entries without a return value.
        Returns:
            int64, shape (width, sum of lengths), line by line, the oldest first.
        """
        before = np.empty((self.width, int(lengths.sum())), np.int64)
        line = 0
        while True:
            line = _extend(
                line, rings, enters, entries, lengths, before, self._rings, self._entries, self._free, self.max_length
            )
            if line == len(rings):
                return before
            self._make_room_for_entries()

    def add(self, keys: Int64Array, enters: BoolArray, entries: Int64Array) -> None:
        """Add lines, as `extend` does, by their keys, int64, shape (n,)."""
        self.extend(self.rings_of(keys), enters, entries, np.zeros(len(keys), np.int64))

    def read(self, keys: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return the entries of keys.

        Returns:
            The number of entries of each key, int64, shape (n,); the entries, int64, shape (width, sum of numbers).
        """
        rings, nothing = self.rings_of(keys), np.zeros(len(keys), np.bool_)
        lengths = self.lengths(rings, nothing)
        return lengths, self.extend(rings, nothing, np.empty((self.width, len(keys)), np.int64), lengths)

    @property
    def keys(self) -> Int64Array:
        """All keys, int64, shape (num_keys,), in the order of their first lines."""
        return self._rings[: self._num_rings, _KEY].copy()

    def _make_room_for_keys(self, num_new: int) -> None:
        most = self._num_rings + num_new
        if 2 * most > len(self._keys):
            self._keys, self._marks = empty_table(2 * most, np.int64)
            _insert(self._rings, self._num_rings, self._keys, self._marks)
        if most > len(self._rings):
            rings = np.zeros((most + most // 2, self._rings.shape[1]), np.int64)
            rings[: self._num_rings] = self._rings[: self._num_rings]
            self._rings = rings

    def _make_room_for_entries(self) -> None:
        used = self._entries.shape[1]
        entries = np.empty((self.width, used + max(used // 2, self.max_length)), np.int64)
        entries[:, :used] = self._entries
        self._entries = entries


@compiled
def _find(
    keys: Int64Array, table: Int64Array, marks: NDArray[Any], rings: Int64Array, num_rings: int
) -> tuple[Int64Array, int]:
    found = np.full(len(keys), -1, np.int64)
    for i in range(len(keys)):
        if keys[i] < 0:
            continue
        place = place_of(keys[i], table, marks)
        if marks[place] == 0:
            table[place] = keys[i]
            rings[num_rings, _KEY], rings[num_rings, _SIZE] = keys[i], -1
            num_rings += 1
            marks[place] = num_rings
        found[i] = np.int64(marks[place]) - 1
    return found, num_rings


@compiled
def _insert(rings: Int64Array, num_rings: int, table: Int64Array, marks: NDArray[Any]) -> None:
    for ring in range(num_rings):
        place = place_of(rings[ring, _KEY], table, marks)
        table[place] = rings[ring, _KEY]
        marks[place] = ring + 1


@compiled
def _lengths_before(lines: Int64Array, enters: BoolArray, rings: Int64Array, max_length: int) -> Int64Array:
    lengths = np.zeros(len(lines), np.int64)
    for i in range(len(lines)):
        if lines[i] >= 0:
            rings[lines[i], _COMING] = rings[lines[i], _LENGTH]
    for i in range(len(lines)):
        if lines[i] >= 0:
            lengths[i] = rings[lines[i], _COMING]
            if enters[i] and lengths[i] < max_length:
                rings[lines[i], _COMING] += 1
    return lengths


@compiled
def _room_of(size: int, max_length: int) -> int:
    """Return for how many entries a ring of a size class has room."""
    return 0 if size < 0 else min(_FIRST_ROOM << size, max_length)


@compiled
def _grow(ring: Int64Array, entries: Int64Array, free: Int64Array, max_length: int) -> bool:
    """Move a full ring to a place of the next size; return False if there is no such place."""
    size = ring[_SIZE] + 1
    start = free[1 + size]
    if start >= 0:
        free[1 + size] = entries[0, start]
    else:
        start = free[0]
        if start + _room_of(size, max_length) > entries.shape[1]:
            return False
        free[0] = start + _room_of(size, max_length)
    for column in range(len(entries)):
        for i in range(ring[_LENGTH]):
            entries[column, start + i] = entries[column, ring[_START] + i]
    if ring[_SIZE] >= 0:
        entries[0, ring[_START]] = free[1 + ring[_SIZE]]
        free[1 + ring[_SIZE]] = ring[_START]
    ring[_START], ring[_SIZE] = start, size
    return True


@compiled
def _extend(
    first: int,
    lines: Int64Array,
    enters: BoolArray,
    new: Int64Array,
    lengths: Int64Array,
    before: Int64Array,
    rings: Int64Array,
    entries: Int64Array,
    free: Int64Array,
    max_length: int,
) -> int:
    """Add lines from `first` on; return the line that found no room, or the number of lines."""
    done = np.int64(0)
    for i in range(first):
        done += lengths[i]
    for i in range(first, len(lines)):
        if lines[i] < 0:
            continue
        ring = rings[lines[i]]
        is_full = ring[_LENGTH] == _room_of(ring[_SIZE], max_length)
        if enters[i] and is_full and ring[_LENGTH] < max_length and not _grow(ring, entries, free, max_length):
            return i
        if lengths[i]:
            # The ring is cut where it starts again. Only a ring of max_length has an oldest entry elsewhere.
            until_cut = ring[_LENGTH] - ring[_OLDEST]
            for column in range(len(entries)):
                for j in range(until_cut):
                    before[column, done + j] = entries[column, ring[_START] + ring[_OLDEST] + j]
                for j in range(ring[_OLDEST]):
                    before[column, done + until_cut + j] = entries[column, ring[_START] + j]
            done += lengths[i]
        if enters[i]:
            place = ring[_START]
            if ring[_LENGTH] < max_length:
                place += ring[_LENGTH]
                ring[_LENGTH] += 1
            else:
                place += ring[_OLDEST]
                ring[_OLDEST] = (ring[_OLDEST] + 1) % max_length
            for column in range(len(entries)):
                entries[column, place] = new[column, i]
    return len(lines)
