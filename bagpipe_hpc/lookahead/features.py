"""From row ids, sample by sample, to keys, table by table.

A *feature* is one column of the samples: one id per sample, or, where it is *ragged*, a *bag* of any number of ids.
Features may share a table. The planner wants keys in *table order*: table by table, so that it can finish one table
before the next; within a table share by share (a *share* is the samples of one trainer), within a share feature by
feature, and within a feature sample by sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.protocol.plan import Bags, Float32Array, Int64Array, KeyArray, ends

BLOCK = 64  # samples whose ids stay in the nearest processor cache while they go to their tables


class Ragged(Protocol):
    """The ids of a ragged feature in a batch: sample s has `ids[offsets[s]:offsets[s + 1]]`."""

    @property
    def offsets(self) -> Int64Array:
        """int64, shape (num_samples + 1,), from 0 on."""

    @property
    def ids(self) -> Int64Array:
        """Row ids within their table, int64, shape (offsets[-1],)."""

    @property
    def weights(self) -> Float32Array | None:
        """float32, shape (offsets[-1],); None: all count the same."""

    def take(self, samples: NDArray[Any]) -> Ragged:
        """The bags of some samples, in any order; samples: integers, shape (n,)."""


@dataclass(frozen=True)
class FeatureTables:
    """Which feature belongs to which table.

    Args:
        tables: Table of each feature.
        ragged: Which features are ragged, ascending; the others are the columns of a batch's ids, in this order.
    """

    tables: tuple[int, ...]
    ragged: tuple[int, ...] = ()

    @property
    def one_hot(self) -> tuple[int, ...]:
        """The features that are not ragged."""
        return tuple(feature for feature in range(len(self.tables)) if feature not in self.ragged)

    @property
    def in_table_order(self) -> tuple[int, ...]:
        """The features, table by table."""
        return tuple(sorted(range(len(self.tables)), key=lambda feature: self.tables[feature]))


def one_id_per_table(num_tables: int) -> FeatureTables:
    """A one-hot feature in each table."""
    return FeatureTables(tuple(range(num_tables)))


class TableOrder:
    """Puts the keys of batches in table order.

    Args:
        features: What a sample has.
        table_offsets: int64, shape (num_tables + 1,): first key of each table, and the number of keys.
    """

    def __init__(self, features: FeatureTables, table_offsets: Int64Array) -> None:
        tables = np.asarray(features.tables, dtype=np.int64)
        self._order = np.asarray(features.in_table_order, dtype=np.int64)
        self._first_of_table = np.searchsorted(tables[self._order], np.arange(len(table_offsets)))  # of each table
        self._one_hot, self._ragged = list(features.one_hot), features.ragged
        self._ragged_in_order = [features.ragged.index(f) for f in features.in_table_order if f in features.ragged]
        self._offsets = table_offsets[tables]

    def arrange(
        self, ids: NDArray[Any], ragged: Sequence[Ragged], sample_ends: Int64Array, keys: KeyArray
    ) -> Int64Array:
        """Write the keys of a batch in table order.

        Args:
            ids: Row ids of the one-hot features, int32 or int64, shape (num_samples, num_one_hot).
            ragged: Row ids of the ragged features.
            sample_ends: int64, shape (T + 1,): trainer t has the samples from sample_ends[t] to sample_ends[t + 1].
            keys: int32 or int64, shape (num_ids,): is filled.
        Returns:
            int64, shape (num_tables, T + 1): the keys of table f in trainer t's share are
            keys[returned[f, t]:returned[f, t + 1]].
        """
        num_tables, num_trainers = len(self._first_of_table) - 1, len(sample_ends) - 1
        counts = np.empty((len(self._order), num_trainers), dtype=np.int64)  # ids of each feature and share
        counts[self._one_hot] = np.diff(sample_ends)
        for feature, bags in zip(self._ragged, ragged, strict=True):
            counts[feature] = np.diff(bags.offsets[sample_ends])
        ids_before = np.zeros((len(self._order) + 1, num_trainers), dtype=np.int64)  # of earlier features
        np.cumsum(counts[self._order], axis=0, out=ids_before[1:])
        before_tables = ids_before[self._first_of_table]
        begins = ends(np.diff(before_tables, axis=0).reshape(-1))
        share_begins = begins[:-1].reshape(num_tables, num_trainers)
        feature_begins = np.empty_like(counts)
        feature_begins[self._order] = ids_before[:-1] + np.repeat(
            share_begins - before_tables[:-1], np.diff(self._first_of_table), axis=0
        )
        shifts = feature_begins[self._one_hot] - sample_ends[:-1]
        _arrange(ids, self._offsets[self._one_hot], sample_ends, shifts, keys)
        for feature, bags in zip(self._ragged, ragged, strict=True):
            id_ends = bags.offsets[sample_ends]
            for t in range(num_trainers):
                share = slice(id_ends[t], id_ends[t + 1])
                begin = feature_begins[feature, t]
                keys[begin : begin + counts[feature, t]] = bags.ids[share] + self._offsets[feature]
        return np.concatenate([share_begins, begins[num_trainers::num_trainers, None]], axis=1)

    def bags(self, ragged: Sequence[Ragged], sample_ends: Int64Array) -> Bags:
        """What trainers need of the ragged features besides the keys; sample_ends as in `arrange`."""
        features = [ragged[index] for index in self._ragged_in_order]
        weighted = [(bags.offsets[sample_ends], bags.weights) for bags in features if bags.weights is not None]
        lengths, weights = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for t in range(len(sample_ends) - 1):
            first, last = sample_ends[t : t + 2]
            lengths += [np.diff(bags.offsets[first : last + 1]) for bags in features]
            weights += [values[id_ends[t] : id_ends[t + 1]] for id_ends, values in weighted]
        num_weights = sum((np.diff(id_ends) for id_ends, _ in weighted), np.zeros(len(sample_ends) - 1, np.int64))
        return Bags(np.concatenate(lengths), len(features) * sample_ends, np.concatenate(weights), ends(num_weights))


@compiled
def _arrange(
    ids: NDArray[Any], offsets: Int64Array, sample_ends: Int64Array, shifts: Int64Array, keys: KeyArray
) -> None:
    """Write the keys of the one-hot features; shifts, int64 (num_one_hot, T): from a sample to the place of its key."""
    num_columns = ids.shape[1]
    for t in range(len(sample_ends) - 1):
        for first in range(sample_ends[t], sample_ends[t + 1], BLOCK):
            end = min(first + BLOCK, sample_ends[t + 1])
            for column in range(num_columns):
                offset, shift = offsets[column], shifts[column, t]
                for sample in range(first, end):
                    keys[shift + sample] = ids[sample, column] + offset


class KeysBySample:
    """Puts the keys of batches in the order of the samples, for code that looks at one sample after the other.

    Args:
        features: What a sample has.
        table_offsets: int64, shape (num_tables + 1,): first key of each table, and the number of keys.
    """

    def __init__(self, features: FeatureTables, table_offsets: Int64Array) -> None:
        first_keys = table_offsets[list(features.tables)]
        self._one_hot = first_keys[list(features.one_hot)]
        self._ragged = first_keys[list(features.ragged)]

    def keys(self, ids: NDArray[Any], ragged: Sequence[Ragged]) -> tuple[Int64Array, Int64Array]:
        """Keys of a batch, those of a sample's one-hot features first.

        Args:
            ids: Row ids of the one-hot features, int32 or int64, shape (num_samples, num_one_hot).
            ragged: Row ids of the ragged features.
        Returns:
            int64, shape (num_ids,), and int64, shape (num_samples + 1,): where each sample begins and ends.
        """
        num_samples, num_columns = ids.shape
        one_hot = ids + self._one_hot
        if not ragged:
            return one_hot.reshape(-1), num_columns * np.arange(num_samples + 1)
        lengths = [np.diff(bags.offsets) for bags in ragged]
        key_ends = ends(num_columns + np.sum(lengths, axis=0))
        keys = np.empty(key_ends[-1], dtype=np.int64)
        begins = key_ends[:-1].copy()
        keys[begins[:, None] + np.arange(num_columns)] = one_hot
        begins += num_columns
        for bags, bag_lengths, first_key in zip(ragged, lengths, self._ragged, strict=True):
            keys[np.arange(len(bags.ids)) + np.repeat(begins - bags.offsets[:-1], bag_lengths)] = bags.ids + first_key
            begins += bag_lengths
        return keys, key_ends
