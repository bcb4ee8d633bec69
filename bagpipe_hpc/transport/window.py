"""RMA windows of rows: memory on the servers, one-sided access by the trainers."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


class RowWindow:
    """One RMA window of float32 rows on every server of a communicator.

    Owns the window, its passive-target epoch (opened once, for the window's whole life) and the row datatype: counts
    and displacements are in rows, so that nothing overflows at 2 GiB.

    Args:
        comm: Servers first (rank = server index), then trainers.
        num_rows: Rows on this rank; 0 on trainers.
        row_width: float32 columns of a row.
    Communication: construction and `free` are collective over comm.
    """

    def __init__(self, comm: MPI.Intracomm, num_rows: int, row_width: int) -> None:
        self._row_type = MPI.FLOAT.Create_contiguous(row_width).Commit()
        row_bytes = 4 * row_width
        self._window = MPI.Win.Allocate(num_rows * row_bytes, row_bytes, comm=comm)
        memory: Any = self._window.tomemory()  # a writable buffer; typeshed has no name for it
        self.rows: Float32Array = np.ndarray((num_rows, row_width), dtype=np.float32, buffer=memory)
        self._row_bytes = row_bytes
        self._window.Lock_all(MPI.MODE_NOCHECK)

    def sync(self) -> None:
        """Order this rank's own loads and stores with remote accesses (the unified memory model asks for it)."""
        self._window.Sync()

    def get(self, server: int, first_row: int, out: Float32Array) -> None:
        """Start taking len(out) contiguous rows of a server; complete after `flush`."""
        self._window.Get([out, len(out), self._row_type], server, (first_row, len(out), self._row_type))

    def put(self, server: int, first_row: int, rows: Float32Array) -> None:
        """Start writing contiguous rows of a server; complete after `flush`."""
        self._window.Put([rows, len(rows), self._row_type], server, (first_row, len(rows), self._row_type))

    def get_indexed(self, server: int, row_indices: Int64Array, out: Float32Array) -> None:
        """Take rows at arbitrary positions; complete on return."""
        target = self._indexed(row_indices)
        self._window.Get([out, len(out), self._row_type], server, (0, 1, target))
        self.flush(server)
        target.Free()

    def put_indexed(self, server: int, row_indices: Int64Array, rows: Float32Array) -> None:
        """Write rows at arbitrary positions; complete on return."""
        target = self._indexed(row_indices)
        self._window.Put([rows, len(rows), self._row_type], server, (0, 1, target))
        self.flush(server)
        target.Free()

    def flush(self, server: int) -> None:
        """Complete all accesses to a server, at the server too."""
        self._window.Flush(server)

    def free(self) -> None:
        """Close the epoch and release the memory; `rows` must not be used afterwards."""
        self._window.Unlock_all()
        del self.rows
        self._window.Free()
        self._row_type.Free()

    def _indexed(self, row_indices: Int64Array) -> MPI.Datatype:
        displacements = (row_indices * self._row_bytes).tolist()
        return self._row_type.Create_hindexed_block(1, displacements).Commit()
