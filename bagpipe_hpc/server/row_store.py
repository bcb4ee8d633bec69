"""The rows of one server, `[embedding | optimizer state]`. They are made when they are first used."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.lazy_memory import lazy_zeros
from bagpipe_hpc.server.row_copy import gather_rows, mark_rows, scatter_rows
from bagpipe_hpc.server.row_snapshot import RowSnapshot
from bagpipe_hpc.sharding import Sharding

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]
Between = Callable[[], object]

_PART_BYTES = 512 * 1024  # 50 to 100 microseconds of copying

_ABSENT, _INITIAL, _TOUCHED, _CHANGED = 0, 1, 2, 3  # changed: touched since the last snapshot


class RowStore:
    """The rows of one server; the ServedRows of the transports.

    Args:
        sharding: From keys to servers and local rows.
        server: This server's index.
        initializer: Makes the initial rows.
        rows: Memory for the rows, float32 (num_local_rows, row_width). The store writes a row before it reads it, so
            memory of `lazy_memory.lazy_zeros` costs what is used.
    """

    def __init__(self, sharding: Sharding, server: int, initializer: RowInitializer, rows: Float32Array) -> None:
        self.sharding = sharding
        self.server = server
        self.rows = rows
        self._initializer = initializer
        self._state_words = lazy_zeros(-(-len(rows) // 8), np.uint64)
        self._state = self._state_words.view(np.uint8)[: len(rows)]
        self._is_needed = lazy_zeros(len(rows), np.bool_)  # by the snapshot that is being read
        self._snapshot: RowSnapshot | None = None
        self._compile()

    @property
    def row_width(self) -> int:
        """float32 columns of a row, optimizer state included."""
        return int(self.rows.shape[1])

    def materialise(self, local_rows: Int64Array) -> None:
        """Give rows that were never used their initial values; local_rows is int64 (n,) without repetitions."""
        new = local_rows[self._state[local_rows] == _ABSENT]
        if len(new):
            made = np.empty((len(new), self.row_width), dtype=np.float32)
            self._initializer.fill(self.sharding.keys_of(self.server, new), made)
            self.rows[new] = made
            self._state[new] = _INITIAL

    def gather(self, local_rows: Int64Array, out: Float32Array, between: Between = lambda: None) -> None:
        """Copy rows into out.

        Args:
            local_rows: int64, shape (n,), without repetitions.
            out: float32, shape (n, row_width).
            between: Called between parts of about 512 KiB, for work that cannot wait until all rows are copied.
        """
        self.materialise(local_rows)  # which checks the indices, too
        for part in self._parts(len(local_rows)):
            gather_rows(self.rows, local_rows[part], out[part])
            between()

    def scatter(self, local_rows: Int64Array, rows: Float32Array, between: Between = lambda: None) -> None:
        """Overwrite rows.

        Args:
            local_rows: int64, shape (n,), without repetitions.
            rows: Their new values, float32, shape (n, row_width).
            between: As in `gather`.
        """
        if self._snapshot is not None:
            self._snapshot.keep(local_rows)
        self.mark_touched(local_rows)  # which checks the indices, too
        for part in self._parts(len(local_rows)):
            scatter_rows(self.rows, local_rows[part], rows[part])
            between()

    def mark_touched(self, local_rows: Int64Array) -> None:
        """Note that a transport itself has overwritten rows; local_rows is int64 (n,)."""
        self._state[local_rows] = _CHANGED

    def num_touched(self) -> int:
        """Return the number of rows that were updated so far."""
        return int(np.count_nonzero(self._state >= _TOUCHED))

    def touched(self, first_row: int, num_rows: int) -> tuple[Int64Array, Float32Array]:
        """Return the touched rows among num_rows local rows from first_row on.

        Returns:
            Keys, int64 (n,), ascending, and rows, float32 (n, row_width).
        """
        local_rows = first_row + np.flatnonzero(self._state[first_row : first_row + num_rows] >= _TOUCHED)
        return self.sharding.keys_of(self.server, local_rows), self.rows[local_rows]

    def take_snapshot(self, *, is_full: bool) -> RowSnapshot:
        """Keep the touched rows, or those changed since the last snapshot, as they are now.

        Some thread must call `find_rows` of the snapshot. If it is this one, it does so before the next `scatter`. Until
        `drop_snapshot`, every `scatter` keeps the rows of the snapshot that it overwrites.
        """
        assert self._snapshot is None, "one snapshot at a time"
        lowest = _TOUCHED if is_full else _CHANGED

        def find() -> Int64Array:
            local_rows = lazy_zeros(len(self.rows), np.int64)
            return local_rows[
                : mark_rows(self._state_words, self._state, lowest, _TOUCHED, self._is_needed, local_rows)
            ]

        self._snapshot = RowSnapshot(self.rows, self._is_needed, find)
        return self._snapshot

    def drop_snapshot(self) -> None:
        """Forget the snapshot, after its last piece was read."""
        self._snapshot = None

    def restore(self, keys: Int64Array, rows: Float32Array) -> None:
        """Take over rows of a checkpoint.

        Args:
            keys: int64, shape (n,), without repetitions, all of this server.
            rows: float32, shape (n, row_width).
        """
        local_rows = self.sharding.local_row_of(keys)
        self.rows[local_rows] = rows
        self._state[local_rows] = _TOUCHED

    def _compile(self) -> None:
        """Compile now what the first snapshot would compile while rows wait for it."""
        snapshot = self.take_snapshot(is_full=True)
        snapshot.find_rows()
        snapshot.keep(np.empty(0, dtype=np.int64))
        self.drop_snapshot()

    def _parts(self, num_rows: int) -> Iterator[slice]:
        step = max(1, _PART_BYTES // (4 * self.row_width))  # not by strides: those of no rows are 0
        return (slice(start, start + step) for start in range(0, num_rows, step))
