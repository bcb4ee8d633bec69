"""Mapping of the values of a categorical feature to row ids. Row 0 is for missing and out-of-vocabulary values."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.data.schema import MAX_ROWS
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.hash_table import place_of
from bagpipe_hpc.sharding import Int64Array
from bagpipe_hpc.splitmix import mix

MAX_HASH_ROWS = MAX_ROWS
MAX_MIN_COUNT = 2**32 - 1  # the largest value of a count
_COUNT_LIMIT = np.uint32(0xFFFFFFFF)


class Encoder(Protocol):
    """A mapping of values to row ids of one table."""

    @property
    def num_embeddings(self) -> int:
        """Number of rows of the table."""

    def encode(self, values: Int64Array) -> Int64Array:
        """Return the row ids of values, both int64, shape (n,). Negative values are missing."""


class ValueCounter:
    """Counts of distinct values. Memory grows with the distinct values, not with the samples.

    It is a hash table (hash_table.py) that is at most half full.

    Args:
        dtype: Integer type that holds every value.
    """

    def __init__(self, dtype: DTypeLike = np.int64) -> None:
        self.dtype = np.dtype(dtype)
        self.num_distinct = 0
        self._keys, self._counts = empty_table(0, dtype)

    def add(self, values: Int64Array) -> None:
        """Count values, int64, shape (n,). Negative values are missing and not counted."""
        self._grow(len(values))
        self.num_distinct += _count(values, self._keys, self._counts)

    def add_counts(self, values: NDArray[Any], counts: NDArray[np.uint32]) -> None:
        """Add counts, uint32, of values, of the counter's dtype, both shape (n,). No value is missing."""
        self._grow(len(values))
        self.num_distinct += _add_counts(values, counts, self._keys, self._counts)

    def items(self) -> tuple[NDArray[Any], NDArray[np.uint32]]:
        """Return the distinct values and their counts, in any order.

        Returns:
            Values of the counter's dtype, counts uint32; each shape (num_distinct,).
        """
        used = self._counts > 0
        return self._keys[used], self._counts[used]

    def frequent(self, min_count: int) -> NDArray[Any]:
        """Return the values that occur at least min_count times, by falling count; equal counts by rising value.

        Returns:
            Of the counter's dtype, shape (n,).
        """
        values, counts = self.items()
        kept = counts >= min_count
        values, counts = values[kept], counts[kept]
        return values[np.lexsort((values, -counts.astype(np.int64)))]

    def _grow(self, num_new: int) -> None:
        """Make room for num_new more distinct values."""
        most = self.num_distinct + num_new
        if 2 * most > len(self._keys):
            values, counts = self.items()
            self._keys, self._counts = empty_table(2 * most, self.dtype)
            _insert(values, counts, self._keys, self._counts)


class Vocabulary:
    """A mapping that gives each value a row of its own.

    Args:
        values: The values of rows 1 to n, shape (n,): distinct and not negative.
    """

    def __init__(self, values: NDArray[Any]) -> None:
        self.num_embeddings = 1 + len(values)
        # Rows start at 1. So the mark 0 of an empty place is also the row of a value that is not in the vocabulary.
        self._keys, self._rows = empty_table(len(values), values.dtype)
        _insert(values, np.arange(1, self.num_embeddings, dtype=np.uint32), self._keys, self._rows)

    @property
    def values(self) -> NDArray[Any]:
        """The values of rows 1 to n, shape (n,)."""
        used = self._rows > 0
        values = np.empty(self.num_embeddings - 1, self._keys.dtype)
        values[self._rows[used] - 1] = self._keys[used]
        return values

    def encode(self, values: Int64Array) -> Int64Array:
        """See `Encoder.encode`."""
        return _look_up(values, self._keys, self._rows)


def require_min_count(min_count: int) -> None:
    """Raise ConfigError if min_count is outside [1, MAX_MIN_COUNT]."""
    if not 1 <= min_count <= MAX_MIN_COUNT:
        raise ConfigError(f"the minimum count is {min_count}, but must be from 1 to {MAX_MIN_COUNT:,}")


class HashedVocabulary:
    """A mapping by hashing to rows 1 .. num_rows - 1. Nothing is counted, and different values may share a row.

    Args:
        num_rows: Number of rows of the table, including row 0 (missing).
    Raises:
        ConfigError: num_rows is below 2 or above MAX_HASH_ROWS.
    """

    def __init__(self, num_rows: int) -> None:
        if not 2 <= num_rows <= MAX_HASH_ROWS:
            raise ConfigError(f"the limit of rows for hashing is {num_rows}, but must be from 2 to 2^62")
        self.num_embeddings = num_rows

    def encode(self, values: Int64Array) -> Int64Array:
        """See `Encoder.encode`."""
        return _hash(values, self.num_embeddings)


def empty_table(num_values: int, dtype: DTypeLike) -> tuple[NDArray[Any], NDArray[np.uint32]]:
    """Return an empty hash table with at least twice as many places as values: the keys and the number of each key."""
    num_places = 1 << max(10, (2 * num_values - 1).bit_length())
    return np.zeros(num_places, dtype), np.zeros(num_places, np.uint32)


@compiled
def _count(values: Int64Array, keys: NDArray[Any], counts: NDArray[np.uint32]) -> int:
    """Count values; return how many were new."""
    num_new = 0
    for i in range(len(values)):
        if values[i] >= 0:
            place = place_of(values[i], keys, counts)
            keys[place] = values[i]
            num_new += counts[place] == 0
            if counts[place] < _COUNT_LIMIT:
                counts[place] += np.uint32(1)
    return num_new


@compiled
def _add_counts(
    new: NDArray[Any], new_counts: NDArray[np.uint32], keys: NDArray[Any], counts: NDArray[np.uint32]
) -> int:
    """Add counts to those of the same values; return how many values were new."""
    num_new = 0
    for i in range(len(new)):
        place = place_of(np.int64(new[i]), keys, counts)
        keys[place] = new[i]
        num_new += counts[place] == 0
        counts[place] += min(new_counts[i], _COUNT_LIMIT - counts[place])
    return num_new


@compiled
def _insert(new: NDArray[Any], new_values: NDArray[np.uint32], keys: NDArray[Any], values: NDArray[np.uint32]) -> None:
    """Insert keys that are not in the table, each with its number."""
    for i in range(len(new)):
        place = place_of(np.int64(new[i]), keys, values)
        keys[place] = new[i]
        values[place] = new_values[i]


@compiled
def _look_up(wanted: Int64Array, keys: NDArray[Any], values: NDArray[np.uint32]) -> Int64Array:
    """Return the number of each wanted key; 0 for negative keys and those that are not in the table."""
    found = np.zeros(len(wanted), np.int64)
    for i in range(len(wanted)):
        if wanted[i] >= 0:
            found[i] = values[place_of(wanted[i], keys, values)]
    return found


@compiled
def _hash(values: Int64Array, num_rows: int) -> Int64Array:
    rows = np.zeros(len(values), np.int64)
    for i in range(len(values)):
        if values[i] >= 0:
            rows[i] = np.int64(np.uint64(1) + mix(np.uint64(values[i])) % np.uint64(num_rows - 1))
    return rows
