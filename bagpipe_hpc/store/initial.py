"""Initial rows, a counter-based function of (seed, table, row id, column) only.

Nothing about the job's shape enters: not S, not T, not the order of first use. A row that was never touched therefore
need not be stored. Values are uniform in [-1/sqrt(n), 1/sqrt(n)), n = num_embeddings of the table, as in the DLRM
reference code; a 64-bit mixer (the finaliser of SplitMix64) is applied to a Weyl sequence over the counter.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bagpipe_hpc.sharding import KeySpace
from bagpipe_hpc.splitmix import mix

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


class RowInitializer:
    """Initial rows of all tables.

    Args:
        key_space: The tables.
        embedding_dim: Columns that hold the embedding.
        seed: Seed of the job.
        tail: What the columns behind them (first-order weight, optimizer state) start with, float32 (width of all
            rows - embedding_dim,), or one value for all.
    """

    def __init__(self, key_space: KeySpace, embedding_dim: int, seed: int, tail: Float32Array | float = 0.0) -> None:
        self.embedding_dim = embedding_dim
        self._tail = tail
        self._seed = np.uint64(seed)
        self._offsets = key_space.table_offsets
        self._scales = (1.0 / np.sqrt(np.asarray(key_space.num_embeddings, dtype=np.float64))).astype(np.float32)

    def fill(self, keys: Int64Array, out: Float32Array) -> None:
        """Write the initial rows of keys, int64 (n,), into out, float32 (n, row_width)."""
        tables = np.searchsorted(self._offsets, keys, side="right") - 1
        out[:, self.embedding_dim :] = self._tail
        _fill(self._seed, tables, keys - self._offsets[tables], self._scales, self.embedding_dim, out)


@njit(cache=True, nogil=True)
def _fill(seed, tables, rows, scales, embedding_dim, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    weyl = np.uint64(0x9E3779B97F4A7C15)
    for j in range(len(tables)):
        stream = mix(mix(seed + weyl) + np.uint64(tables[j]) * weyl + weyl)
        row = mix(stream + np.uint64(rows[j]) * weyl)
        scale = scales[tables[j]]
        for column in range(embedding_dim):
            bits = mix(row + np.uint64(column + 1) * weyl) >> np.uint64(40)  # 24 bits: exact in float32
            unit = np.float32(bits) * np.float32(2.0**-23) - np.float32(1.0)
            out[j, column] = unit * scale
