"""On two ranks: rows that lie beyond 2 GiB in a window travel like any others; hardly any memory is touched."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from bagpipe_hpc.transport.window import RowWindow

ROW_WIDTH = 251  # no power of two
NUM_ROWS = 2**33 // (4 * ROW_WIDTH) // 3  # 2.67 GiB
LAST = NUM_ROWS - 3
SCATTERED = np.array([NUM_ROWS - 9, 1, NUM_ROWS - 50, 2**31 // (4 * ROW_WIDTH)])


def row(number: int) -> np.ndarray:
    return np.arange(ROW_WIDTH, dtype=np.float32) + number


def main() -> None:
    comm = MPI.COMM_WORLD
    window = RowWindow(comm, NUM_ROWS if comm.rank == 0 else 0, ROW_WIDTH)
    if comm.rank == 0:
        assert window.rows.nbytes > 2.5 * 2**30
        window.rows[LAST : LAST + 3] = [row(1), row(2), row(3)]
        window.rows[SCATTERED] = [row(10), row(11), row(12), row(13)]
        window.sync()
    comm.Barrier()
    if comm.rank == 1:
        landed = np.empty((3, ROW_WIDTH), dtype=np.float32)
        window.get(0, LAST, landed)
        window.flush(0)
        np.testing.assert_array_equal(landed, [row(1), row(2), row(3)])
        window.put(0, LAST, landed[::-1].copy())
        window.flush(0)
        scattered = np.empty((4, ROW_WIDTH), dtype=np.float32)
        window.get_indexed(0, SCATTERED, scattered)
        np.testing.assert_array_equal(scattered, [row(10), row(11), row(12), row(13)])
        window.put_indexed(0, SCATTERED, -scattered)
    comm.Barrier()
    if comm.rank == 0:
        window.sync()
        np.testing.assert_array_equal(window.rows[LAST : LAST + 3], [row(3), row(2), row(1)])
        np.testing.assert_array_equal(window.rows[SCATTERED], [-row(10), -row(11), -row(12), -row(13)])
    window.free()


if __name__ == "__main__":
    main()
