"""Rows of a store as they were at one moment, read piece by piece while the store goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.store.lazy_memory import lazy_rows

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


class RowSnapshot:
    """Two threads share it: one reads `pieces`, the other calls `set_aside` before it overwrites rows.

    Each piece is copied under the lock. A row that is overwritten before its piece was read is copied aside first, so
    memory grows with these rows only.

    Args:
        rows: The store's rows, float32 (num_local_rows, row_width).
        local_rows: Those to keep, int64 (n,), ascending.
    """

    def __init__(self, rows: Float32Array, local_rows: Int64Array) -> None:
        self.local_rows = local_rows
        self.stall_seconds = 0.0  # of the thread that overwrites
        self._rows = rows
        self._lock = threading.Lock()
        self._is_needed = np.zeros(len(rows), dtype=np.bool_)  # the store's row itself
        self._is_needed[local_rows] = True
        self._places = np.full(len(local_rows), -1, dtype=np.int32)  # in _aside; -1: the row still stands in the store
        self._aside = lazy_rows(len(local_rows), rows.shape[1])
        self._num_aside = 0

    def set_aside(self, local_rows: Int64Array) -> None:
        """Keep the present values of rows that are about to be overwritten; int64 (n,) unique."""
        start = time.perf_counter()
        with self._lock:
            needed = local_rows[self._is_needed[local_rows]]
            if len(needed):
                stop = self._num_aside + len(needed)
                np.take(self._rows, needed, axis=0, out=self._aside[self._num_aside : stop], mode="clip")
                self._places[np.searchsorted(self.local_rows, needed)] = np.arange(self._num_aside, stop)
                self._is_needed[needed] = False
                self._num_aside = stop
        self.stall_seconds += time.perf_counter() - start

    def pieces(self, rows_per_piece: int) -> Iterator[tuple[Int64Array, Float32Array]]:
        """All rows once: local rows int64 (m,) ascending, rows float32 (m, row_width)."""
        for start in range(0, len(self.local_rows), rows_per_piece):
            local_rows = self.local_rows[start : start + rows_per_piece]
            with self._lock:
                rows = self._rows.take(local_rows, axis=0, mode="clip")
                places = self._places[start : start + rows_per_piece]
                is_aside = places >= 0
                rows[is_aside] = self._aside[places[is_aside]]
                self._is_needed[local_rows] = False
            yield local_rows, rows
