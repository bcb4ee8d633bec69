"""The rows of a store as they were at one moment, read piece by piece while the store changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.lazy_memory import lazy_zeros
from bagpipe_hpc.server.row_copy import gather_rows, keep_rows

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


class RowSnapshot:
    """Rows of one moment, shared by two threads.

    One thread calls `find_rows` and reads `pieces`. The other one calls `keep` before it overwrites rows. Until the
    rows are found, it waits; from then on no thread waits for the other. `keep` copies a row that is overwritten
    before its piece was read, so memory grows with these rows only. Reading a piece has three steps: copy its rows as
    they stand; note that they are read; replace those that were kept by now, because they may have been overwritten
    during the copy. Rows that are kept later were in the copy before. (Between these steps each thread takes Python's
    lock, which orders memory.)

    Args:
        rows: The store's rows, float32 (num_local_rows, row_width).
        is_needed: bool, shape (num_local_rows,): false everywhere, and again after all pieces are read.
        find: Returns the rows to keep, int64 (n,) ascending, and sets `is_needed` for these.
    """

    def __init__(self, rows: Float32Array, is_needed: NDArray[np.bool_], find: Callable[[], Int64Array]) -> None:
        self.num_rows = 0  # known once they are found
        self.stall_seconds = 0.0  # of the thread that overwrites
        self._rows, self._is_needed, self._find = rows, is_needed, find
        self._is_found = threading.Event()
        # Rows that were kept, in that order; only ever appended to.
        self._local_rows: Int64Array
        self._kept: Float32Array
        self._kept_numbers: Int64Array  # which local row each is
        self._num_kept = 0

    def keep(self, local_rows: Int64Array) -> None:
        """Copy those of these rows that belong to the snapshot and are not read yet, before they are overwritten.

        The call waits until `find_rows` has found the rows.

        Args:
            local_rows: int64, shape (n,), without repetitions.
        """
        start = time.perf_counter()
        self._is_found.wait()
        self._num_kept = keep_rows(
            self._rows, local_rows, self._is_needed, self._kept, self._kept_numbers, self._num_kept
        )
        self.stall_seconds += time.perf_counter() - start

    def find_rows(self) -> None:
        """Find the rows of the snapshot, before the first piece is read."""
        self._local_rows = self._find()
        self.num_rows = len(self._local_rows)
        self._kept = lazy_zeros((self.num_rows, self._rows.shape[1]), np.float32)
        self._kept_numbers = lazy_zeros(self.num_rows, np.int64)
        self._is_found.set()

    def pieces(self, rows_per_piece: int) -> Iterator[tuple[Int64Array, Float32Array]]:
        """Yield all rows once, in pieces: local rows int64 (m,), ascending, and rows float32 (m, row_width)."""
        for start in range(0, self.num_rows, rows_per_piece):
            local_rows = self._local_rows[start : start + rows_per_piece]
            rows = np.empty((len(local_rows), self._rows.shape[1]), dtype=np.float32)
            gather_rows(self._rows, local_rows, rows)
            self._is_needed[local_rows] = False
            numbers = self._kept_numbers[: self._num_kept]
            places = np.flatnonzero((numbers >= local_rows[0]) & (numbers <= local_rows[-1]))
            rows[np.searchsorted(local_rows, numbers[places])] = self._kept[places]
            yield local_rows, rows
