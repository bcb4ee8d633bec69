"""On two ranks: rank 1 Puts and Gets NUM_ROWS rows of rank 0's window and finds them right."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from bagpipe_hpc.transport.byte_messages import wait_all
from bagpipe_hpc.transport.window import RowWindow

NUM_ROWS, ROW_WIDTH = 4096, 256
NUM_BYTES = 4 * NUM_ROWS * ROW_WIDTH


def main() -> None:
    comm = MPI.COMM_WORLD
    rows = np.arange(NUM_ROWS * ROW_WIDTH, dtype=np.float32).reshape(NUM_ROWS, ROW_WIDTH)
    window = RowWindow(comm, 2 * NUM_ROWS if comm.rank == 0 else 0, ROW_WIDTH)
    if comm.rank == 0:
        window.memory[:NUM_ROWS] = rows
        window.sync()
    comm.Barrier()
    if comm.rank == 1:
        landed = np.zeros_like(rows)
        wait_all([window.get(0, 0, landed)])
        np.testing.assert_array_equal(landed, rows)
        wait_all([window.put(0, NUM_ROWS, -rows)])
        window.flush(0)
    comm.Barrier()  # rank 0 waits inside MPI, which lets the accesses go on
    if comm.rank == 0:
        window.sync()
        np.testing.assert_array_equal(window.memory[NUM_ROWS:], -rows)
    window.free()


if __name__ == "__main__":
    main()
