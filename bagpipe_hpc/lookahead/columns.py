"""From row ids, sample by sample, to keys, table by table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bagpipe_hpc.lookahead.plan import Int64Array, KeyArray

BLOCK = 64  # samples whose ids stay in the nearest cache while they are dealt to the tables


class Columns:
    """The columns of a batch's ids, and the tables they count in.

    Args:
        tables: int64, shape (num_columns,): table of each column. Columns of one table stand side by side.
        table_offsets: int64, shape (num_tables + 1,): first key of each table, and the number of keys.
    """

    def __init__(self, tables: Int64Array, table_offsets: Int64Array) -> None:
        num_tables = len(table_offsets) - 1
        self._widths = np.bincount(tables, minlength=num_tables)  # ids of a sample in each table
        self._table_begins = np.cumsum(self._widths) - self._widths  # in the ids of one sample
        order = np.argsort(tables, kind="stable")
        self._ranks = np.empty_like(tables)  # of each column within its table
        self._ranks[order] = np.arange(len(tables)) - self._table_begins[tables[order]]
        self._tables = tables
        self._offsets = table_offsets[tables]

    def deal(self, ids: NDArray[Any], sample_ends: Int64Array, keys: KeyArray) -> Int64Array:
        """Fill in the keys: table by table, within a table sample by sample.

        Args:
            ids: Row ids, int32 or int64, shape (num_samples, num_columns).
            sample_ends: int64, shape (T + 1,).
            keys: Is filled; shape (ids.size,).
        Returns:
            int64, shape (num_tables, T + 1): where each share of each table begins and ends.
        """
        begins = len(ids) * self._table_begins
        _deal(ids, self._offsets, begins[self._tables] + self._ranks, self._widths[self._tables], keys)
        id_ends: Int64Array = begins[:, None] + self._widths[:, None] * sample_ends
        return id_ends


@njit(cache=True, nogil=True)
def _deal(ids, offsets, begins, strides, keys):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    num_samples, num_columns = ids.shape
    for first in range(0, num_samples, BLOCK):
        end = min(first + BLOCK, num_samples)
        for column in range(num_columns):
            offset, begin, stride = offsets[column], begins[column], strides[column]
            for sample in range(first, end):
                keys[begin + sample * stride] = ids[sample, column] + offset
