"""The order of ids in a batch: from row ids, sample by sample, to keys, table by table.

A *feature* is one column of the samples. A sample has one row id in a one-hot feature, and a *bag* of any number of row
ids in a *ragged* feature. Several features may share a table. A *share* is the samples of one trainer.

The planner takes keys in *table order*: table by table, within a table share by share, within a share feature by
feature, and within a feature sample by sample. So it finishes one table before it begins the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.batch import Bags
from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.feature_tables import FeatureTables
from bagpipe_hpc.protocol.plan import BagLists, Int64Array, KeyArray, ends

BLOCK = 64  # number of samples whose ids fit into the nearest processor cache


class TableOrder:
    """Puts the keys of batches in table order.

    Args:
        features: The features of a sample and their tables.
        table_offsets: int64, shape (num_tables + 1,): first key of each table, then the number of all keys.
    """

    def __init__(self, features: FeatureTables, table_offsets: Int64Array) -> None:
        tables = np.asarray(features.tables, dtype=np.int64)
        self._order = np.asarray(features.in_table_order, dtype=np.int64)
        self._first_of_table = np.searchsorted(tables[self._order], np.arange(len(table_offsets)))  # of each table
        self._one_hot, self._ragged = list(features.one_hot), features.ragged
        self._ragged_in_order = [features.ragged.index(f) for f in features.in_table_order if f in features.ragged]
        self._offsets = table_offsets[tables]

    def arrange(self, ids: NDArray[Any], bags: Sequence[Bags], sample_ends: Int64Array, keys: KeyArray) -> Int64Array:
        """Write the keys of a batch in table order.

        Args:
            ids: Row ids of the one-hot features, int32 or int64, shape (num_samples, num_one_hot).
            bags: Of each ragged feature, in the order of the features.
            sample_ends: int64, shape (T + 1,): trainer t has the samples from sample_ends[t] to sample_ends[t + 1].
            keys: int32 or int64, shape (num_ids,): the keys are written to it.
        Returns:
            id_ends, int64, shape (num_tables, T + 1): the keys of table f in trainer t's share are
            keys[id_ends[f, t]:id_ends[f, t + 1]].
        """
        num_tables, num_trainers = len(self._first_of_table) - 1, len(sample_ends) - 1
        counts = np.empty((len(self._order), num_trainers), dtype=np.int64)  # ids of each feature and share
        counts[self._one_hot] = np.diff(sample_ends)
        for feature, each in zip(self._ragged, bags, strict=True):
            counts[feature] = np.diff(each.offsets[sample_ends])
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
        for feature, each in zip(self._ragged, bags, strict=True):
            id_ends = each.offsets[sample_ends]
            for t in range(num_trainers):
                share = slice(id_ends[t], id_ends[t + 1])
                begin = feature_begins[feature, t]
                keys[begin : begin + counts[feature, t]] = each.ids[share] + self._offsets[feature]
        return np.concatenate([share_begins, begins[num_trainers::num_trainers, None]], axis=1)

    def bag_lists(self, bags: Sequence[Bags], sample_ends: Int64Array) -> BagLists:
        """Return what trainers get of the bags besides rows; arguments and dtypes as in `arrange`."""
        in_order = [bags[index] for index in self._ragged_in_order]
        num_trainers = len(sample_ends) - 1
        lengths = [np.empty(0, np.int64)]
        for t in range(num_trainers):
            first, last = sample_ends[t : t + 2]
            lengths += [np.diff(each.offsets[first : last + 1]) for each in in_order]
        id_ends = [each.offsets[sample_ends] for each in in_order]
        reals = [(own, value) for own, each in zip(id_ends, in_order, strict=True) for value in each.reals]
        integers = [(own, value) for own, each in zip(id_ends, in_order, strict=True) for value in each.integers]
        return BagLists(
            np.concatenate(lengths),
            len(in_order) * sample_ends,
            *_by_trainer(reals, num_trainers, np.float32),
            *_by_trainer(integers, num_trainers, np.int64),
        )


def _by_trainer(
    values: Sequence[tuple[Int64Array, NDArray[Any]]], num_trainers: int, dtype: type[np.generic]
) -> tuple[NDArray[Any], Int64Array]:
    """Put values of ids in the order of trainers.

    Args:
        values: For each value of a feature, where the ids of each trainer end in it, int64, shape (T + 1,), and the
            values of all ids.
        num_trainers: T.
        dtype: The type of all values.
    Returns:
        The values, trainer by trainer, and where those of each trainer end, int64, shape (T + 1,).
    """
    pieces: list[NDArray[Any]] = [np.empty(0, dtype)]
    for t in range(num_trainers):
        pieces += [column[id_ends[t] : id_ends[t + 1]] for id_ends, column in values]
    counts = sum((np.diff(id_ends) for id_ends, _ in values), np.zeros(num_trainers, np.int64))
    return np.concatenate(pieces), ends(counts)


@compiled
def _arrange(
    ids: NDArray[Any], offsets: Int64Array, sample_ends: Int64Array, shifts: Int64Array, keys: KeyArray
) -> None:
    """Write the keys of the one-hot features.

    Args:
        ids: int32 or int64, shape (num_samples, num_one_hot).
        offsets: int64, shape (num_one_hot,): first key of each feature's table.
        sample_ends: int64, shape (T + 1,).
        shifts: int64, shape (num_one_hot, T): the key of a sample is written to keys[shift + sample].
        keys: int32 or int64, shape (num_ids,).
    """
    num_columns = ids.shape[1]
    for t in range(len(sample_ends) - 1):
        for first in range(sample_ends[t], sample_ends[t + 1], BLOCK):
            end = min(first + BLOCK, sample_ends[t + 1])
            for column in range(num_columns):
                offset, shift = offsets[column], shifts[column, t]
                for sample in range(first, end):
                    keys[shift + sample] = ids[sample, column] + offset


class KeysBySample:
    """Puts the keys of batches in the order of the samples.

    Args:
        features: The features of a sample and their tables.
        table_offsets: int64, shape (num_tables + 1,): first key of each table, then the number of all keys.
    """

    def __init__(self, features: FeatureTables, table_offsets: Int64Array) -> None:
        first_keys = table_offsets[list(features.tables)]
        self._one_hot = first_keys[list(features.one_hot)]
        self._ragged = first_keys[list(features.ragged)]

    def keys(self, ids: NDArray[Any], bags: Sequence[Bags]) -> tuple[Int64Array, Int64Array]:
        """Return the keys of a batch, sample by sample; within a sample, those of its one-hot features come first.

        Args:
            ids: Row ids of the one-hot features, int32 or int64, shape (num_samples, num_one_hot).
            bags: Of each ragged feature, in the order of the features.
        Returns:
            The keys, int64, shape (num_ids,), and key_ends, int64, shape (num_samples + 1,): sample s has
            keys[key_ends[s]:key_ends[s + 1]].
        """
        num_samples, num_columns = ids.shape
        one_hot = ids + self._one_hot
        if not bags:
            return one_hot.reshape(-1), num_columns * np.arange(num_samples + 1)
        lengths = [np.diff(each.offsets) for each in bags]
        key_ends = ends(num_columns + np.sum(lengths, axis=0))
        keys = np.empty(key_ends[-1], dtype=np.int64)
        begins = key_ends[:-1].copy()
        keys[begins[:, None] + np.arange(num_columns)] = one_hot
        begins += num_columns
        for each, each_lengths, first_key in zip(bags, lengths, self._ragged, strict=True):
            keys[np.arange(len(each.ids)) + np.repeat(begins - each.offsets[:-1], each_lengths)] = each.ids + first_key
            begins += each_lengths
        return keys, key_ends
