"""Initial rows: a counter-based function of only seed, table, row id and column.

The function does not depend on the number of servers or trainers, or on the order in which rows are first used. A row
that was never updated therefore need not be stored. Values are uniform in [-1/sqrt(n), 1/sqrt(n)), where n is the
table's num_embeddings, as in the DLRM reference code. A 64-bit mixer (the finalizer of SplitMix64) is applied to a Weyl
sequence over the counter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.sharding import KeySpace
from bagpipe_hpc.splitmix import mix

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


class RowInitializer:
    """Initial rows of all tables.

    Args:
        key_space: The tables.
        embedding_dim: Number of columns that hold the embedding.
        seed: The job's seed.
        tails: Initial values of the columns after the embedding (first-order weight, optimizer state), float32, shape
            (num_tables, row_width - embedding_dim); None: zeros.
        dims: For each table the number of embedding columns that it uses, which are the first ones. The others are
            zero. None: all columns.
    """

    def __init__(
        self,
        key_space: KeySpace,
        embedding_dim: int,
        seed: int,
        tails: Float32Array | None = None,
        dims: Sequence[int] | None = None,
    ) -> None:
        self.embedding_dim = embedding_dim
        self._tails = tails
        num_tables = len(key_space.num_embeddings)
        self._dims = np.array([embedding_dim] * num_tables if dims is None else dims, dtype=np.int64)
        self._seed = np.uint64(seed)
        self._offsets = key_space.table_offsets
        self._scales = (1.0 / np.sqrt(np.asarray(key_space.num_embeddings, dtype=np.float64))).astype(np.float32)

    def fill(self, keys: Int64Array, out: Float32Array) -> None:
        """Write the initial rows of keys, int64 (n,), into out, float32 (n, row_width)."""
        tables = np.searchsorted(self._offsets, keys, side="right") - 1
        self.fill_in_tables(tables, keys - self._offsets[tables], out)

    def fill_in_tables(self, tables: NDArray[Any], rows: Int64Array, out: Float32Array) -> None:
        """Write initial rows into out.

        Args:
            tables: The table of each row, any integers, shape (n,).
            rows: Its number within the table or, in a dynamic table, its id, int64, shape (n,).
            out: float32, shape (n, row_width).
        """
        out[:, self.embedding_dim :] = 0 if self._tails is None else self._tails[tables]
        if self._dims.min() < self.embedding_dim:
            out[:, : self.embedding_dim] = 0
        _fill(self._seed, tables.astype(np.int64, copy=False), rows, self._scales, self._dims, out)


@compiled
def _fill(
    seed: np.uint64, tables: Int64Array, rows: Int64Array, scales: Float32Array, dims: Int64Array, out: Float32Array
) -> None:
    """Write the embeddings of rows (tables[j], rows[j]) to out."""
    weyl = np.uint64(0x9E3779B97F4A7C15)
    for j in range(len(tables)):
        stream = mix(mix(seed + weyl) + np.uint64(tables[j]) * weyl + weyl)
        row = mix(stream + np.uint64(rows[j]) * weyl)
        scale = scales[tables[j]]
        for column in range(dims[tables[j]]):
            bits = mix(row + np.uint64(column + 1) * weyl) >> np.uint64(40)  # 24 bits, which float32 holds exactly
            unit = np.float32(bits) * np.float32(2.0**-23) - np.float32(1.0)
            out[j, column] = unit * scale
