"""Rows of a store as they were at one moment, read piece by piece while the store goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.lazy_memory import lazy_zeros
from bagpipe_hpc.server.row_copy import gather_rows, set_rows_aside

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


class RowSnapshot:
    """Two threads share it: one calls `find_rows` and reads `pieces`, the other `set_aside` before it overwrites rows.

    Until the rows are found they may not be overwritten: `set_aside` waits. From then on nobody waits for the other. A
    row that is overwritten before its piece was read is copied aside first, so memory grows with these rows only: a
    piece is copied as it stands, then said to be read, and then the rows that were set aside by now replace what may
    have been overwritten under the copy. What is set aside later, the copy had before. (Between these steps each thread
    takes Python's lock, which orders memory.)

    Args:
        rows: The store's rows, float32 (num_local_rows, row_width).
        is_needed: bool, shape (num_local_rows,): false everywhere, also once all is read.
        find: Returns the rows to keep, int64 (n,) ascending, and sets `is_needed` for these.
    """

    def __init__(self, rows: Float32Array, is_needed: NDArray[np.bool_], find: Callable[[], Int64Array]) -> None:
        self.num_rows = 0  # known once they are found
        self.stall_seconds = 0.0  # of the thread that overwrites
        self._rows, self._is_needed, self._find = rows, is_needed, find
        self._is_found = threading.Event()
        # Rows set aside, in the order in which they were; only ever appended to.
        self._local_rows: Int64Array
        self._aside: Float32Array
        self._aside_numbers: Int64Array  # which local row each is
        self._num_aside = 0

    def set_aside(self, local_rows: Int64Array) -> None:
        """Keep the present values of rows that are about to be overwritten; int64 (n,) unique."""
        start = time.perf_counter()
        self._is_found.wait()
        self._num_aside = set_rows_aside(
            self._rows, local_rows, self._is_needed, self._aside, self._aside_numbers, self._num_aside
        )
        self.stall_seconds += time.perf_counter() - start

    def find_rows(self) -> None:
        """Before the first piece is read."""
        self._local_rows = self._find()
        self.num_rows = len(self._local_rows)
        self._aside = lazy_zeros((self.num_rows, self._rows.shape[1]), np.float32)
        self._aside_numbers = lazy_zeros(self.num_rows, np.int64)
        self._is_found.set()

    def pieces(self, rows_per_piece: int) -> Iterator[tuple[Int64Array, Float32Array]]:
        """All rows once: local rows int64 (m,) ascending, rows float32 (m, row_width)."""
        for start in range(0, self.num_rows, rows_per_piece):
            local_rows = self._local_rows[start : start + rows_per_piece]
            rows = np.empty((len(local_rows), self._rows.shape[1]), dtype=np.float32)
            gather_rows(self._rows, local_rows, rows)
            self._is_needed[local_rows] = False
            numbers = self._aside_numbers[: self._num_aside]
            places = np.flatnonzero((numbers >= local_rows[0]) & (numbers <= local_rows[-1]))
            rows[np.searchsorted(local_rows, numbers[places])] = self._aside[places]
            yield local_rows, rows
