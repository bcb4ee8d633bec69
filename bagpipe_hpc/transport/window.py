"""RMA windows of rows: the memory is on the servers, and the trainers access it one-sidedly."""

from __future__ import annotations

import mmap
import socket
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.lazy_memory import MAP_NORESERVE
from bagpipe_hpc.transport.byte_messages import wait_all
from bagpipe_hpc.transport.collectives import all_gather_json, enter_together

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


class RowWindow:
    """One RMA window of float32 rows on every server of a communicator.

    It owns the window, its passive-target epoch (open as long as the window lives) and the datatype of a row. Counts
    and displacements are in rows, so that nothing overflows at 2 GiB. `memory` is float32 (num_rows, row_width).

    Args:
        comm: Servers first (rank = server index), then trainers.
        num_rows: Rows on this rank; 0 on trainers.
        row_width: float32 columns of a row.
    Raises:
        PlatformError: MPI cannot allocate the memory; names its size and what to do.
    Communication: construction and `free` are collective over comm.
    """

    def __init__(self, comm: MPI.Intracomm, num_rows: int, row_width: int) -> None:
        self._row_type = MPI.FLOAT.Create_contiguous(row_width).Commit()
        row_bytes = 4 * row_width
        self._comm = comm
        self._window = _allocate(num_rows, row_bytes, comm)
        memory: Any = self._window.tomemory()  # a writable buffer; typeshed has no name for it
        self.memory: Float32Array = np.ndarray((num_rows, row_width), dtype=np.float32, buffer=memory)
        self._row_bytes = row_bytes
        self._window.Lock_all(MPI.MODE_NOCHECK)

    def sync(self) -> None:
        """Order the loads and stores of this rank with remote accesses, as the unified memory model demands."""
        self._window.Sync()

    def get(self, server: int, first_row: int, out: Float32Array) -> MPI.Request:
        """Start reading contiguous rows of a server into out, float32 (n, row_width).

        Returns:
            When it is complete, the rows have arrived.
        """
        return self._window.Rget([out, len(out), self._row_type], server, (first_row, len(out), self._row_type))

    def put(self, server: int, first_row: int, rows: Float32Array) -> MPI.Request:
        """Start writing contiguous rows of a server from rows, float32 (n, row_width).

        Returns:
            When it is complete, MPI no longer reads the rows. They have arrived after `flush`.
        """
        return self._window.Rput([rows, len(rows), self._row_type], server, (first_row, len(rows), self._row_type))

    def get_indexed(self, server: int, row_indices: Int64Array, out: Float32Array) -> None:
        """Read rows at any positions, int64 (n,), into out, float32 (n, row_width). Complete on return."""
        target = self._indexed(row_indices)
        wait_all([self._window.Rget([out, len(out), self._row_type], server, (0, 1, target))])
        target.Free()

    def put_indexed(self, server: int, row_indices: Int64Array, rows: Float32Array) -> None:
        """Write rows at any positions, int64 (n,), from rows, float32 (n, row_width). Complete on return."""
        target = self._indexed(row_indices)
        wait_all([self._window.Rput([rows, len(rows), self._row_type], server, (0, 1, target))])
        self.flush(server)
        target.Free()

    def flush(self, server: int) -> None:
        """Complete all accesses to a server, also at the server.

        MPI spins in here, so accesses are complete on this side before: see `get` and `put`.
        """
        self._window.Flush(server)

    def free(self) -> None:
        """Close the epoch and release the memory. `memory` must not be used afterwards."""
        enter_together(self._comm)
        self._window.Unlock_all()
        del self.memory
        self._window.Free()
        self._row_type.Free()

    def _indexed(self, row_indices: Int64Array) -> MPI.Datatype:
        displacements = (row_indices * self._row_bytes).tolist()
        return self._row_type.Create_hindexed_block(1, displacements).Commit()


def _allocate(num_rows: int, row_bytes: int, comm: MPI.Intracomm) -> MPI.Win:
    num_bytes = num_rows * row_bytes
    _require_address_space(num_bytes, comm)
    try:
        return MPI.Win.Allocate(num_bytes, row_bytes, comm=comm)
    except MPI.Exception as error:
        raise _refusal(num_bytes, str(error)) from None


def _require_address_space(num_bytes: int, comm: MPI.Intracomm) -> None:
    """Raise PlatformError if this rank cannot map what all ranks of its host allocate, as MPI does.

    Otherwise Open MPI fails here and leaves the other ranks waiting for ever, or waits itself.
    """
    host = socket.gethostname()
    on_this_host = sum(size for name, size in all_gather_json(comm, [host, num_bytes]) if name == host)
    if on_this_host > 0:
        try:
            mmap.mmap(-1, on_this_host, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE).close()
        except OSError as error:
            raise _refusal(on_this_host, str(error.strerror)) from None


def _refusal(num_bytes: int, cause: str) -> PlatformError:
    return PlatformError(
        f"a window of rows of {num_bytes / 2**20:,.0f} MiB cannot be allocated or mapped ({cause}): raise the limits "
        "of memory of this rank (ulimit -v, the batch job's) or the size of /dev/shm, use more roles.servers, or lower "
        "training.batch_size. With transport=direct windows hold whole tables, with staged the rows of an iteration"
    )
